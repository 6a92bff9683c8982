//! `forebay passwd` and `forebay acl test`: what they do, without the terminal.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::acl::Answer;
use super::password::{self, Passwords, Stored};
use super::reload::text_of;
use super::rules::Ask;
use super::{Access, AclFile, Principal, destination};
use crate::beside;

/// What is done with a password file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswdCommand {
    /// A user who is not there yet.
    Add(String, Vec<u8>),
    /// Another password for one who is.
    Change(String, Vec<u8>),
    /// The user goes.
    Delete(String),
    /// The names, one a line.
    List,
}

/// How a new password is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashForm {
    /// For all that give the password itself.
    #[default]
    Argon2id,
    /// For SCRAM-SHA-256 as well.
    Scram,
}

/// Why it was not done. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is wrong, or the user is not what the command takes it for.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Changes or lists a password file; returns what is to be printed. A file that is not there is made by `Add`, readable for
/// its owner only.
///
/// # Errors
/// The file is as it was.
pub fn passwd(path: &Path, command: &PasswdCommand, form: HashForm) -> Result<String, CommandError> {
    let refused = |why: String| CommandError::Refused { path: path.to_owned(), why };
    let failed = |source| CommandError::Io { path: path.to_owned(), source };
    let text = match text_of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(command, PasswdCommand::Add(..)) => {
            String::new()
        }
        other => other.map_err(failed)?,
    };
    let passwords = Passwords::parse(&text).map_err(|error| refused(error.to_string()))?;
    let (PasswdCommand::Add(name, _) | PasswdCommand::Change(name, _) | PasswdCommand::Delete(name)) = command else {
        let mut names: Vec<&str> = passwords.names().collect();
        names.sort_unstable();
        return Ok(names.iter().map(|name| format!("{name}\n")).collect());
    };
    let there = passwords.get(name).is_some();
    let text = match command {
        PasswdCommand::Add(..) if there => {
            return Err(refused(format!("there is a user {name:?} already; use `change`")));
        }
        PasswdCommand::Change(..) | PasswdCommand::Delete(_) if !there => {
            return Err(refused(format!("there is no user {name:?}")));
        }
        PasswdCommand::Add(_, password) | PasswdCommand::Change(_, password) => {
            password::check_name(name).map_err(|why| refused(why.to_owned()))?;
            if password.is_empty() {
                return Err(refused("the password is empty".to_owned()));
            }
            let stored = match form {
                HashForm::Argon2id => Stored::of(password),
                HashForm::Scram => Stored::scram_of(password),
            };
            let stored = stored.map_err(|error| refused(error.to_string()))?;
            password::with_user(&text, name, &stored)
        }
        PasswdCommand::Delete(_) | PasswdCommand::List => password::without_user(&text, name).unwrap_or(text),
    };
    replace(path, &text).map_err(failed)?;
    Ok(String::new())
}

/// The whole file or the one before, whatever happens meanwhile; owner and mode stay. Links are followed, and what is no regular
/// file stays what it is.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = &beside::followed(path)?;
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    let written = keep_owner(path, &file)
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(unix)]
fn keep_owner(path: &Path, file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let Ok(before) = fs::metadata(path) else { return Ok(()) };
    let made = file.metadata()?;
    if (before.uid(), before.gid()) != (made.uid(), made.gid()) {
        fchown(file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(before.permissions())
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &fs::File) -> io::Result<()> {
    Ok(())
}

/// A question to an ACL.
#[derive(Clone, Debug)]
pub struct AclTest<'a> {
    /// Who asks.
    pub who: Principal,
    /// What it wants to do.
    pub ask: AclAsk<'a>,
}

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAsk<'a> {
    /// To connect.
    Connect,
    /// To publish on a topic: with this QoS, and retained or not.
    Publish(&'a str, u8, bool),
    /// To subscribe to a filter.
    Subscribe(&'a str),
    /// To get a message with this topic.
    Receive(&'a str),
}

/// Whether the file allows it, and a line to print: the answer, and the line of the file that gave it.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub fn acl_test(path: Option<&Path>, test: &AclTest<'_>) -> Result<(bool, String), CommandError> {
    let Some(path) = path else {
        return Ok((true, "allowed: no acl_file is configured".to_owned()));
    };
    let (text, acl) = read_acl(path)?;
    let answer = acl.check(&test.who, test.ask.of_file(&acl));
    Ok((answer.allowed, show(path, &text, answer)))
}

/// An ACL file: its text, and what it says.
pub(crate) fn read_acl(path: &Path) -> Result<(String, AclFile), CommandError> {
    let text = text_of(path).map_err(|source| CommandError::Io { path: path.to_owned(), source })?;
    let acl = AclFile::parse(path, &text)
        .map_err(|error| CommandError::Refused { path: path.to_owned(), why: error.to_string() })?;
    Ok((text, acl))
}

impl<'a> AclAsk<'a> {
    fn of_client(self) -> Ask<'a> {
        match self {
            Self::Connect => Ask::Connect,
            Self::Publish(topic, qos, retain) => Ask::Publish { topic: destination(topic), qos, retain },
            Self::Receive(topic) => Ask::Receive { topic },
            Self::Subscribe(filter) => Ask::subscribe(filter),
        }
    }

    /// Of a filter without wildcards the line that lets the messages through says more.
    fn of_file(self, acl: &AclFile) -> Ask<'a> {
        match (self.of_client(), acl) {
            (Ask::Subscribe { filter, .. }, AclFile::Mosquitto(_)) if !filter.contains(['+', '#']) => {
                Ask::Receive { topic: filter }
            }
            (ask, _) => ask,
        }
    }
}

impl Access {
    /// What the rules that are in force say, and which of them: users made while the broker runs first, then this ACL. What a token or
    /// an HTTP service says of one connection is not known here.
    pub(crate) fn explain(&self, acl: Option<&Path>, test: &AclTest<'_>) -> (bool, String) {
        if let Some(allowed) = self.dynamic_state().and_then(|state| state.check(&test.who, test.ask.of_client())) {
            return (allowed, "dynamic security".to_owned());
        }
        let policy = self.policy();
        let Some((path, acl)) = acl.and_then(|path| Some((path, policy.acl(path)?))) else {
            let allowed = test.ask == AclAsk::Connect || !self.has_dynamic();
            return (allowed, if allowed { "no acl_file is configured" } else { "no role allows it" }.to_owned());
        };
        let answer = acl.check(&test.who, test.ask.of_file(acl));
        let by = match answer.line {
            Some(line) => format!("{}:{line}", path.display()),
            None if answer.allowed => format!("no line of {} says otherwise", path.display()),
            None => format!("no line of {} allows it", path.display()),
        };
        (answer.allowed, by)
    }
}

/// The answer, and the line of the file that gave it.
pub(crate) fn show(path: &Path, text: &str, answer: Answer) -> String {
    let verdict = if answer.allowed { "allowed" } else { "denied" };
    let Some(number) = answer.line else {
        let why = if answer.allowed { "says otherwise" } else { "allows it" };
        return format!("{verdict}: no line of {} {why}", path.display());
    };
    format!("{verdict}: {}:{number}: {}", path.display(), line_of(text, number))
}

/// A line of a text, counted from 1.
pub(crate) fn line_of(text: &str, number: u32) -> &str {
    text.lines().nth((number as usize).saturating_sub(1)).unwrap_or_default().trim()
}
