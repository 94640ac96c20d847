//! What can go wrong, one line each. Nothing here harms a region.

use std::io;
use std::path::PathBuf;

/// Result of this program.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the program gives up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The folder cannot be indexed.
    #[error("{}: {what}", path.display())]
    Folder {
        /// As it was given.
        path: PathBuf,
        /// Why not.
        what: String,
    },

    /// There is no region to search.
    #[error("{}: no index there; make one with `codesearch index DIR`", .0.display())]
    NoIndex(PathBuf),

    /// No place for the default region is known.
    #[error("neither XDG_DATA_HOME nor HOME is set: say which region with --region FILE")]
    NoDataFolder,

    /// The folder of the region cannot be made.
    #[error("{}: cannot make the folder: {source}", path.display())]
    DataFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A search for what no index holds.
    #[error(
        "`{0}` is not a word: words are ASCII letters, digits and _, and do not start with a digit"
    )]
    NotAWord(String),

    /// The answer cannot be written.
    #[error("cannot write the answer: {0}")]
    Output(io::Error),

    /// The region failed.
    #[error(transparent)]
    Region(#[from] bartender::Error),
}

impl Error {
    /// The message on one line, whatever the parts of it said.
    pub(crate) fn line(&self) -> String {
        let text = self.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.join("; ")
    }
}
