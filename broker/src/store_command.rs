//! `forebay store`: what the tools of the store say, and where it goes.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};

use forebay::cli::StoreCommand;
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

fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(stderr().lock(), "forebay: {text}");
}

fn print(verdict: &Verdict) -> std::io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    let Counts { sessions, subscriptions, queued, queued_bytes, retained } = verdict.counts;
    writeln!(out, "format         {}", verdict.format)?;
    writeln!(out, "clock          {} ms, wall clock {} ms since 1970", verdict.clock.time.0, verdict.clock.wall_ms)?;
    writeln!(out, "sessions       {sessions}")?;
    writeln!(out, "subscriptions  {subscriptions}")?;
    writeln!(out, "queued         {queued} messages, {queued_bytes} bytes")?;
    writeln!(out, "retained       {retained} messages")?;
    for line in verdict.wrong.iter().take(WRONG_LINES_MAX) {
        writeln!(out, "wrong          {line}")?;
    }
    if let Some(more @ 1..) = verdict.wrong.len().checked_sub(WRONG_LINES_MAX) {
        writeln!(out, "wrong          and {more} more")?;
    }
    out.flush()
}

/// Into a file beside it first: an export that fails must not cost the one before.
fn export_to(dir: &Path, to: &Path) -> anyhow::Result<Counts> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let cannot = |error: std::io::Error| anyhow::anyhow!("{} cannot be written: {error}", to.display());
    let mut out = BufWriter::new(File::create(&partial).map_err(cannot)?);
    let counts = match tool::export(dir, &mut out) {
        Ok(counts) => counts,
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(if let ToolError::Io(error) = error { cannot(error) } else { error.into() });
        }
    };
    out.get_ref().sync_all().map_err(cannot)?;
    std::fs::rename(&partial, to).map_err(cannot)?;
    Ok(counts)
}
