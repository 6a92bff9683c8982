//! A folder of which one thing is different: its file, what is set aside of it, or how much room there is.

use std::io;

use forebay::store::medium::{Backend, Folder, Medium};
use forebay::store::space::Space;

/// What is different; without a change all is as the folder has it.
pub trait Change: Send + Sync + 'static {
    /// The file that was opened, or set aside and opened.
    fn file(&self, _opened: Opened, file: Backend) -> Backend {
        file
    }

    /// The journal, if there is one.
    fn journal(&self, opened: io::Result<Option<Backend>>) -> io::Result<Option<Backend>> {
        opened
    }

    /// The room that there is.
    fn space(&self, space: Space) -> Space {
        space
    }
}

/// What a file was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// To be the store.
    Store,
    /// To be looked at.
    Look,
    /// To be recovered.
    SetAside,
}

/// The folder, changed.
pub struct Changed<C>(pub Folder, pub C);

impl<C: Change> Medium for Changed<C> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn open(&self) -> io::Result<Backend> {
        Ok(self.1.file(Opened::Store, self.0.open()?))
    }

    fn open_to_read(&self) -> io::Result<Backend> {
        Ok(self.1.file(Opened::Look, self.0.open_to_read()?))
    }

    fn exists(&self) -> bool {
        self.0.exists()
    }

    fn generation(&self) -> Option<u64> {
        self.0.generation()
    }

    fn set_generation(&self, commit: u64) -> io::Result<()> {
        self.0.set_generation(commit)
    }

    fn set_aside(&self, stamp: &str) -> io::Result<(String, Backend)> {
        let (name, old) = self.0.set_aside(stamp)?;
        Ok((name, self.1.file(Opened::SetAside, old)))
    }

    fn unrecovered(&self) -> io::Result<Option<(String, Backend)>> {
        self.0.unrecovered()
    }

    fn recovered(&self) -> io::Result<()> {
        self.0.recovered()
    }

    fn damaged_row(&self, line: &str) -> io::Result<()> {
        self.0.damaged_row(line)
    }

    fn set_suspect(&self, suspect: bool) -> io::Result<()> {
        self.0.set_suspect(suspect)
    }

    fn suspect(&self) -> bool {
        self.0.suspect()
    }

    fn space(&self) -> io::Result<Space> {
        Ok(self.1.space(self.0.space()?))
    }

    fn open_journal(&self) -> io::Result<Option<Backend>> {
        self.1.journal(self.0.open_journal())
    }

    fn make_journal(&self, size: u64, head: &[u8]) -> io::Result<Option<Backend>> {
        self.0.make_journal(size, head)
    }

    fn set_journal_aside(&self, stamp: &str) -> io::Result<String> {
        self.0.set_journal_aside(stamp)
    }

    fn remove_journal(&self) -> io::Result<()> {
        self.0.remove_journal()
    }
}
