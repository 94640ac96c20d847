//! Where a node keeps its copies of regions.

use crate::error::Result;
use bartender_pm::{Error, Installing, Options, Region, Replication, Standby};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A node's copies, by the names of their regions. Calls block.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Opens the copy as one that follows; `None` if there is none, or one that was never finished.
    ///
    /// # Errors
    ///
    /// The region's; `Busy` while it is open otherwise.
    fn standby(&self, region: &str) -> Result<Option<Standby>>;

    /// Puts a copy away that is damaged, so that there is none, and nothing of it is lost: for whoever wants to look at it.
    ///
    /// # Errors
    ///
    /// `Busy` while it is open; where that cannot be done.
    fn set_aside(&self, region: &str) -> Result<()>;

    /// Starts a copy anew, over what there was.
    ///
    /// # Errors
    ///
    /// The region's.
    fn install(&self, region: &str, header: &[u8]) -> Result<Installing>;

    /// Makes an empty copy where there is none, the first of a new region, and returns its uuid.
    ///
    /// # Errors
    ///
    /// The region's.
    fn create(&self, region: &str) -> Result<[u8; 16]>;

    /// Opens the copy as the primary of `epoch`.
    ///
    /// # Errors
    ///
    /// The region's.
    fn primary(
        &self,
        region: &str,
        epoch: u64,
        replication: Arc<dyn Replication>,
    ) -> Result<Region>;
}

/// Copies in a folder, each a file: `NAME.region`. Damaged ones that were set aside: `NAME.region.damaged-N`.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    options: Options,
}

impl Folder {
    /// Copies in `path`. Regions that are created there have the sizes that `options` say.
    pub fn new(path: impl Into<PathBuf>, options: Options) -> Folder {
        Folder {
            path: path.into(),
            options,
        }
    }

    /// The file of a region.
    pub fn file(&self, region: &str) -> PathBuf {
        self.path.join(format!("{region}.region"))
    }
}

impl Store for Folder {
    fn standby(&self, region: &str) -> Result<Option<Standby>> {
        match Standby::open(self.file(region)) {
            Ok(standby) => Ok(Some(standby)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(Error::Unfinished { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set_aside(&self, region: &str) -> Result<()> {
        let aside = Standby::set_aside(self.file(region))?;
        tracing::error!(region, aside = %aside.display(), "a damaged copy has another name now");
        Ok(())
    }

    fn install(&self, region: &str, header: &[u8]) -> Result<Installing> {
        Ok(Standby::install(self.file(region), header)?)
    }

    fn create(&self, region: &str) -> Result<[u8; 16]> {
        Ok(self.options.create_replica(self.file(region))?)
    }

    fn primary(
        &self,
        region: &str,
        epoch: u64,
        replication: Arc<dyn Replication>,
    ) -> Result<Region> {
        let mut options = self.options.clone();
        options.replicated(epoch, replication).create(false);
        Ok(options.open(self.file(region))?)
    }
}
