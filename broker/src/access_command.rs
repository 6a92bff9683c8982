//! `forebay passwd` and `forebay acl`: the terminal's side.

use std::io::{BufRead, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use forebay::access::{self, AclAsk, AclTest, Principal};
use forebay::cli::{AclAction, AclCommand, Passwd, PasswdCommand};
use forebay::config::Config;

use crate::{FAILED, USAGE};

/// The longest password, in bytes: what MQTT can say.
const PASSWORD_MAX: usize = 65_535;

pub fn passwd(config: Option<&Config>, args: &Passwd) -> ExitCode {
    let named = config.and_then(|config| config.access.password_file.as_ref());
    let Some(path) = args.file.as_ref().or(named) else {
        complain("no password file: give --file FILE, or a --config whose [access] has password_file");
        return ExitCode::from(USAGE);
    };
    let form = if args.scram { access::HashForm::Scram } else { access::HashForm::Argon2id };
    let password = |user: &str| password(user, args.stdin);
    let command = match &args.command {
        PasswdCommand::Add { user } => password(user).map(|p| access::PasswdCommand::Add(user.clone(), p)),
        PasswdCommand::Change { user } => password(user).map(|p| access::PasswdCommand::Change(user.clone(), p)),
        PasswdCommand::Delete { user } => Ok(access::PasswdCommand::Delete(user.clone())),
        PasswdCommand::List => Ok(access::PasswdCommand::List),
    };
    let done = command.and_then(|command| access::passwd(path, &command, form).map_err(|error| error.to_string()));
    match done {
        Ok(text) => print(&text),
        Err(why) => {
            complain(&why);
            ExitCode::from(FAILED)
        }
    }
}

pub fn acl(config: &Config, command: &AclCommand) -> ExitCode {
    let AclCommand::Test { user, client, group, address, listener, qos, retain, action, topic, .. } = command else {
        complain("this is asked of the running broker");
        return ExitCode::from(USAGE);
    };
    let topic = topic.as_deref().unwrap_or_default();
    let checked = match action {
        AclAction::Connect => Ok(()),
        AclAction::Publish | AclAction::Receive => forebay_wire::topic::check_name(topic, usize::MAX),
        AclAction::Subscribe => forebay_wire::topic::check_filter(topic, usize::MAX),
    };
    if let Err(error) = checked {
        complain(&format!("{topic:?}: {}", error.detail));
        return ExitCode::from(USAGE);
    }
    let mut file = config.access.acl_file.as_deref();
    if let Some(url) = listener {
        let Some(found) = config.listeners.iter().find(|known| known.url == *url) else {
            complain(&format!("no listener has the url {url:?}"));
            return ExitCode::from(USAGE);
        };
        file = found.acl_file.as_deref().or(file);
    }
    let who = Principal {
        user: user.as_deref().map(Into::into),
        client_id: client.as_str().into(),
        groups: group.iter().map(|group| group.as_str().into()).collect(),
        certificate: None,
        addr: *address,
        listener: listener.as_deref().unwrap_or_default().into(),
    };
    let ask = match action {
        AclAction::Connect => AclAsk::Connect,
        AclAction::Publish => AclAsk::Publish(topic, *qos, *retain),
        AclAction::Subscribe => AclAsk::Subscribe(topic),
        AclAction::Receive => AclAsk::Receive(topic),
    };
    match access::acl_test(file, &AclTest { who, ask }) {
        Ok((allowed, text)) => {
            let printed = print(&format!("{text}\n"));
            if allowed { printed } else { ExitCode::from(FAILED) }
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

fn password(user: &str, from_stdin: bool) -> Result<Vec<u8>, String> {
    if from_stdin {
        return line();
    }
    let ask = |what: &str| {
        let _ = write!(stderr(), "{what} for {user:?}: ").and_then(|()| stderr().flush());
        let echo = Echo::off()?;
        let answer = line();
        drop(echo);
        let _ = writeln!(stderr());
        answer
    };
    let first = ask("Password")?;
    if ask("The same again")? != first {
        return Err("the two passwords are not the same".to_owned());
    }
    Ok(first)
}

/// One line of the standard input, without its end.
fn line() -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut line = Vec::new();
    let most = PASSWORD_MAX as u64 + 2;
    stdin().lock().take(most).read_until(b'\n', &mut line).map_err(|error| format!("standard input: {error}"))?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.len() > PASSWORD_MAX { Err("the password is too long".to_owned()) } else { Ok(line) }
}

/// What is typed is not shown while this lives.
#[cfg(unix)]
struct Echo(rustix::termios::Termios);

#[cfg(unix)]
impl Echo {
    fn off() -> Result<Self, String> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let no_terminal = |_| "the standard input is no terminal; give the password with --stdin".to_owned();
        let before = tcgetattr(stdin()).map_err(no_terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &silent).map_err(no_terminal)?;
        Ok(Self(before))
    }
}

#[cfg(unix)]
impl Drop for Echo {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(stdin(), rustix::termios::OptionalActions::Now, &self.0);
    }
}

#[cfg(not(unix))]
struct Echo;

#[cfg(not(unix))]
impl Echo {
    fn off() -> Result<Self, String> {
        Err("give the password with --stdin".to_owned())
    }
}

fn print(text: &str) -> ExitCode {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn complain(why: &str) {
    let _ = writeln!(stderr(), "forebay: {why}");
}
