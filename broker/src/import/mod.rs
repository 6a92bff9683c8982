//! `forebay import mosquitto`: the configuration and the store of a mosquitto become those of a Forebay.
//!
//! ```text
//!   mosquitto.conf -> conf (lines, sections) -> translate (forebay.toml)   files beside it are copied
//!   mosquitto.db   -> database (its chunks)  -> sessions (lines of an export) -> store::tool::import
//! ```
//!
//! Nothing of mosquitto's is changed. What has no counterpart is in the report, line by line.

mod bridges;
mod conf;
mod database;
mod listeners;
mod sessions;
mod toml;
mod translate;

use std::fs;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::access::Access;
use crate::config::{self, ConfigError, Overrides};
use crate::store::medium::make_folder;
use crate::store::tool::{self, Counts, ToolError};

/// The name of the configuration that is written.
const CONFIG_NAME: &str = "forebay.toml";
/// mosquitto's names for its two files.
const CONF_NAME: &str = "mosquitto.conf";
const DATABASE_NAME: &str = "mosquitto.db";

/// What is imported, and where to.
#[derive(Debug)]
pub struct Plan {
    /// A folder with `mosquitto.conf`, `mosquitto.db` or both; or one of the two files.
    pub from: PathBuf,
    /// The folder of the new configuration.
    pub to: PathBuf,
    /// The folder of the new store; `data` in [`Plan::to`] if nothing is said.
    pub data_dir: Option<PathBuf>,
    /// mosquitto's store, if it is not where the configuration says.
    pub database: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// The configuration that was written.
    pub config: Option<PathBuf>,
    /// What is wrong with it: it was written all the same, to be mended by hand.
    pub refused: Option<String>,
    /// Where the store is, and what is in it.
    pub store: Option<(PathBuf, Counts)>,
    /// What could not be taken, and what differs.
    pub left: Vec<String>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is neither of the two files.
    #[error("{path} has neither mosquitto.conf nor mosquitto.db; name the folder or the file that has them")]
    Nothing {
        /// What was named.
        path: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing is overwritten.
    #[error("{path} is there already; name another folder with --to, or move it away")]
    There {
        /// The file.
        path: String,
    },
    /// mosquitto's store cannot be read.
    #[error("{path}: {why}; nothing was imported")]
    Database {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The store cannot be filled.
    #[error(transparent)]
    Store(#[from] ToolError),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.display().to_string();
    |source| ImportError::Io { path, source }
}

/// Imports what is there of both files.
///
/// # Errors
/// A file cannot be read or written, something would be overwritten, or mosquitto's store is none. What stands in the
/// configuration and cannot be taken is no error.
pub fn mosquitto(plan: &Plan) -> Result<Report, ImportError> {
    let mut report = Report::default();
    let (conf, beside) = places(&plan.from);
    let read = conf.as_deref().map(|path| conf::read(path, &mut report.left).map_err(io_error(path))).transpose()?;
    let database = match (&plan.database, beside) {
        (Some(named), _) => Some(named.clone()),
        (None, Some(beside)) => Some(beside),
        (None, None) => read.as_ref().and_then(conf::Conf::database),
    };
    if read.is_none() && database.is_none() {
        return Err(ImportError::Nothing { path: plan.from.display().to_string() });
    }
    let config = plan.to.join(CONFIG_NAME);
    let data_dir = plan.data_dir.clone().unwrap_or_else(|| plan.to.join("data"));
    let named = plan.data_dir.as_deref().map_or_else(|| Ok("data".into()), std::path::absolute);
    let named = named.map_err(io_error(&data_dir))?;
    let translated = read.map(|read| translate::translate(read, &named, &mut report.left));
    // Before anything is written: what is there already.
    let files = translated.iter().flat_map(|translated| &translated.files).map(|file| plan.to.join(&file.name));
    if let Some(path) = files.chain(translated.is_some().then_some(config.clone())).find(|path| path.exists()) {
        return Err(ImportError::There { path: path.display().to_string() });
    }
    make_folder(&plan.to).map_err(io_error(&plan.to))?;
    if let Some(path) = &database {
        report.store = Some((data_dir.clone(), store(path, &data_dir, &mut report.left)?));
    }
    if let Some(translated) = translated {
        for file in &translated.files {
            write_new(&plan.to.join(&file.name), &file.content)?;
        }
        write_new(&config, translated.text.as_bytes())?;
        report.refused = refused(&config);
        report.config = Some(config);
    }
    Ok(report)
}

/// Where the configuration is, and a store that was named or lies beside nothing else.
fn places(from: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    if !from.is_dir() {
        let is_database = fs::File::open(from).is_ok_and(database::is_one);
        let from = Some(from.to_owned());
        return if is_database { (None, from) } else { (from, None) };
    }
    let there = |name: &str| Some(from.join(name)).filter(|path| path.is_file());
    (there(CONF_NAME), there(DATABASE_NAME))
}

/// A new file that only its owner reads: there may be hashes or passwords in it.
fn write_new(path: &Path, content: &[u8]) -> Result<(), ImportError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return ImportError::There { path: path.display().to_string() };
        }
        io_error(path)(error)
    })?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io_error(path))
}

/// What the broker would say of the new configuration at its start, files of users and rules included.
fn refused(config: &Path) -> Option<String> {
    match config::load(Some(config), &Overrides::default()) {
        Err(ConfigError::Unreadable { source, .. }) => Some(source.to_string()),
        Err(error) => Some(error.to_string()),
        Ok(config) => Access::load(&config.access).err().map(|error| error.to_string()),
    }
}

fn store(path: &Path, data_dir: &Path, left: &mut Vec<String>) -> Result<Counts, ImportError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let wrong = |why| ImportError::Database { path: path.display().to_string(), why };
    let found = database::read(&bytes, left).map_err(wrong)?;
    make_folder(data_dir).map_err(io_error(data_dir))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let lines = sessions::Lines::new(&found, u64::try_from(now.as_millis()).unwrap_or(u64::MAX), left);
    Ok(tool::import(data_dir, &mut BufReader::new(lines))?)
}
