//! `forebay store`: what the tools of the store say, and where it goes.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufReader, BufWriter, ErrorKind, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};

use forebay::beside;
use forebay::cli::StoreCommand;
use forebay::store::redb::FORMAT_VERSION;
use forebay::store::tool::{self, Counts, ToolError, Verdict};

/// Lines of what is wrong; more are counted only.
const WRONG_LINES_MAX: usize = 1000;

/// False: the store is not sound.
pub fn run(dir: &Path, command: &StoreCommand) -> anyhow::Result<bool> {
    let store = dir.display();
    match command {
        StoreCommand::Verify => {
            let verdict = tool::verify(dir)?;
            print(&verdict)?;
            let wrong = verdict.wrong.len();
            say(&match wrong {
                0 => format!("the store in {store} is sound"),
                _ => format!(
                    "the store in {store} is not sound: {wrong} things are wrong; a broker that starts keeps the rest"
                ),
            });
            return Ok(wrong == 0);
        }
        StoreCommand::Export { to } => {
            let counts = match to {
                None => tool::export(dir, &mut BufWriter::new(stdout().lock()))?,
                Some(to) => export_to(dir, to)?,
            };
            say(&format!("exported the store in {store}: {counts}"));
        }
        StoreCommand::Import { from } => {
            let counts = match from {
                None => tool::import(dir, &mut stdin().lock())?,
                Some(from) => {
                    let file = File::open(from)
                        .map_err(|error| anyhow::anyhow!("{} cannot be read: {error}", from.display()))?;
                    tool::import(dir, &mut BufReader::new(file))?
                }
            };
            say(&format!("imported into the store in {store}: {counts}"));
        }
        StoreCommand::Compact => {
            let sizes = tool::compact(dir)?;
            say(&format!("compacted the store in {store}: {} bytes before, {} after", sizes.before, sizes.after));
        }
    }
    Ok(true)
}

/// Says what a start of this program would do to the store. False: the store is not sound.
pub fn upgrade(dir: &Path) -> anyhow::Result<bool> {
    let (store, verdict) = (dir.display(), tool::verify(dir)?);
    print(&verdict)?;
    say(&if verdict.format < FORMAT_VERSION {
        format!(
            "{store}: the first start makes format {} into {FORMAT_VERSION}, in one transaction: all of it or nothing; a program that \
             knows {} only cannot read it then, so copy the folder first if you may want to go back",
            verdict.format, verdict.format
        )
    } else {
        format!("{store}: has the format of this program, {FORMAT_VERSION}; a start changes nothing of its form")
    });
    if !verdict.wrong.is_empty() {
        say(&format!("{store}: is not sound; a start sets the damaged file aside and keeps the rest"));
    }
    Ok(verdict.wrong.is_empty())
}

fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(stderr().lock(), "forebay: {text}");
}

fn print(verdict: &Verdict) -> std::io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    let Counts { sessions, subscriptions, queued, queued_bytes, retained, keyed } = verdict.counts;
    writeln!(out, "format         {}", verdict.format)?;
    writeln!(out, "clock          {} ms, wall clock {} ms since 1970", verdict.clock.time.0, verdict.clock.wall_ms)?;
    writeln!(out, "sessions       {sessions}")?;
    writeln!(out, "subscriptions  {subscriptions}")?;
    writeln!(out, "queued         {queued} messages, {queued_bytes} bytes")?;
    writeln!(out, "retained       {retained} messages")?;
    writeln!(out, "keyed          {keyed} rows")?;
    for line in verdict.wrong.iter().take(WRONG_LINES_MAX) {
        writeln!(out, "wrong          {line}")?;
    }
    if let Some(more @ 1..) = verdict.wrong.len().checked_sub(WRONG_LINES_MAX) {
        writeln!(out, "wrong          and {more} more")?;
    }
    out.flush()
}

/// A regular file is replaced as a whole, from a file beside it: an export that fails must not cost the one before. What is
/// anything else (a FIFO, a device) is written to and stays what it is, and a symbolic link stays and is followed.
fn export_to(dir: &Path, to: &Path) -> anyhow::Result<Counts> {
    let cannot = |error: std::io::Error| anyhow::anyhow!("{} cannot be written: {error}", to.display());
    let target = beside::followed(to).map_err(cannot)?;
    match std::fs::metadata(&target) {
        Ok(meta) if !meta.is_file() => {
            let mut out = BufWriter::new(OpenOptions::new().write(true).open(&target).map_err(cannot)?);
            tool::export(dir, &mut out).map_err(|error| said(error, cannot))
        }
        Ok(meta) => replace(dir, &target, Some(meta.permissions()), cannot),
        Err(error) if error.kind() == ErrorKind::NotFound => replace(dir, &target, None, cannot),
        Err(error) => Err(cannot(error)),
    }
}

fn replace(
    dir: &Path,
    to: &Path,
    permissions: Option<Permissions>,
    cannot: impl Fn(std::io::Error) -> anyhow::Error,
) -> anyhow::Result<Counts> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = beside::create(&partial, 0o666).map_err(&cannot)?;
    let mut out = BufWriter::new(file);
    let written = tool::export(dir, &mut out).map_err(|error| said(error, &cannot)).and_then(|counts| {
        if let Some(permissions) = permissions {
            out.get_ref().set_permissions(permissions).map_err(&cannot)?;
        }
        out.get_ref().sync_all().map_err(&cannot)?;
        std::fs::rename(&partial, to).map_err(&cannot)?;
        Ok(counts)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn said(error: ToolError, cannot: impl Fn(std::io::Error) -> anyhow::Error) -> anyhow::Error {
    if let ToolError::Io(error) = error { cannot(error) } else { error.into() }
}
