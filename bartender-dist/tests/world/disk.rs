//! The disk of a simulated machine, which survives it with whatever was not drained as drawn.

use bartender_dist::{Error, Result, Store};
use bartender_pm::medium::sim::{Image, Rng, SimKind, SimMedium, SimMemory};
use bartender_pm::{Installing, Options, Region, Replication, Standby};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) const MAX_SIZE: u64 = 8 << 20;

/// One machine's disk; it holds one region.
#[derive(Debug)]
pub(crate) struct Disk {
    kind: SimKind,
    memory: Arc<SimMemory>,
    medium: Mutex<Arc<SimMedium>>,
    full: AtomicBool,
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(32 << 10)
        .background(false);
    options
}

impl Disk {
    pub(crate) fn new(kind: SimKind) -> Disk {
        let memory = SimMemory::new(MAX_SIZE);
        let medium = SimMedium::new(kind, Image::default(), &memory);
        Disk {
            kind,
            memory,
            medium: Mutex::new(medium),
            full: AtomicBool::new(false),
        }
    }

    fn medium(&self) -> Arc<SimMedium> {
        self.medium.lock().expect("no panic").clone()
    }

    /// What a crash at this instant leaves.
    pub(crate) fn crash(&self, seed: u64) -> Image {
        let trace = self.medium().trace();
        trace.image_before(trace.events().len(), &mut Rng(seed))
    }

    /// Everything fails after so many barriers.
    pub(crate) fn break_in(&self, barriers: u64) {
        self.medium().fail_in(barriers);
    }

    /// It works again.
    pub(crate) fn mend(&self) {
        self.medium().fail_never();
    }

    /// It has no space left, or has some again; also after a restart.
    pub(crate) fn fill_up(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
        self.medium().fill_up(full);
    }

    /// A page of the home decays, if there is one.
    pub(crate) fn damage(&self, page: u64) -> bool {
        let medium = self.medium();
        let image = medium.image();
        // Where the header says that the home starts.
        let home = [0, 4096].into_iter().find_map(|block| {
            let mut word = [0; 8];
            (image.len() > 8192).then(|| image.read(block + 48, &mut word))?;
            Some(u64::from_le_bytes(word)).filter(|&at| at != 0)
        });
        let at = home.map(|home| home + page * 4096);
        let at = at.filter(|at| at + 4096 <= image.len());
        if let Some(at) = at {
            medium.damage(at, &[0xee; 4096]);
        }
        at.is_some()
    }

    /// Whether anybody has it open.
    fn used(&self) -> bool {
        Arc::strong_count(&self.medium.lock().expect("no panic")) > 1
    }

    /// After a crash that left `image`; waits until what was on the machine is gone.
    pub(crate) async fn restart(&self, image: Image) {
        while self.used() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let mut medium = self.medium.lock().expect("no panic");
        // The memory is for one at a time.
        *medium = SimMedium::new(SimKind::Dax, Image::default(), &SimMemory::new(1));
        *medium = SimMedium::new(self.kind, image, &self.memory);
        medium.fill_up(self.full.load(Ordering::Relaxed));
    }

    fn idle(&self) -> Result<Arc<SimMedium>> {
        if self.used() {
            return Err(Error::Region(bartender_pm::Error::Busy {
                path: "(simulated)".into(),
                holder: "this machine".into(),
            }));
        }
        Ok(self.medium())
    }
}

impl Store for Disk {
    fn standby(&self, _region: &str) -> Result<Option<Standby>> {
        match Standby::open_on(self.idle()?) {
            Ok(standby) => Ok(Some(standby)),
            Err(bartender_pm::Error::Unfinished { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn set_aside(&self, _region: &str) -> Result<()> {
        self.idle()?;
        let mut medium = self.medium.lock().expect("no panic");
        *medium = SimMedium::new(SimKind::Dax, Image::default(), &SimMemory::new(1));
        *medium = SimMedium::new(self.kind, Image::default(), &self.memory);
        medium.fill_up(self.full.load(Ordering::Relaxed));
        Ok(())
    }

    fn install(&self, _region: &str, header: &[u8]) -> Result<Installing> {
        Ok(Standby::install_on(self.idle()?, header)?)
    }

    fn create(&self, _region: &str) -> Result<[u8; 16]> {
        Ok(options().create_replica_on(&*self.idle()?)?)
    }

    fn primary(
        &self,
        _region: &str,
        epoch: u64,
        replication: Arc<dyn Replication>,
    ) -> Result<Region> {
        let mut options = options();
        options.replicated(epoch, replication).create(false);
        Ok(options.open_on(self.idle()?)?)
    }
}
