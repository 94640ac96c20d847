//! What an honest primary sends, for targets that change it.

use bartender_pm::medium::sim::{Image, SimKind, SimMedium, SimMemory};
use bartender_pm::{Durability, Options, Record, Region, Replication, Sealed};
use std::sync::{Arc, LazyLock};

/// Of the region, in bytes.
pub const MAX_SIZE: u64 = 2 << 20;

#[derive(Debug)]
struct Nobody;

impl Replication for Nobody {
    fn lead(&self, batch: Sealed<'_>) -> bartender_pm::Result<()> {
        let written = batch.write_local();
        batch.finish(written)
    }
}

/// What an honest primary sends.
pub struct Honest {
    pub header: Vec<u8>,
    /// From offset 0 on.
    #[allow(dead_code, reason = "not every target sends a log")]
    pub stream: Vec<u8>,
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .max_size(MAX_SIZE)
        .log_size(16 << 10)
        .background(false);
    options
}

pub fn medium(memory: &Arc<SimMemory>) -> Arc<SimMedium> {
    let medium = SimMedium::new(SimKind::Dax, Image::default(), memory);
    medium.stop_recording();
    medium
}

pub static HONEST: LazyLock<Honest> = LazyLock::new(|| {
    let memory = SimMemory::new(MAX_SIZE);
    let medium = medium(&memory);
    let made = options().create_replica_on(&*medium);
    made.expect("there is room");
    let mut options = options();
    options.replicated(1, Arc::new(Nobody)).create(false);
    let region: Region = options.open_on(medium).expect("it was just made");
    let header = region.picture().expect("a picture").header;
    for i in 0..5_u64 {
        let mut record = Record::new();
        record.change(i * 64, &[i as u8; 40]);
        let mut writer = region.writer().expect("it is open");
        writer
            .append(&mut record, Durability::Eventual)
            .expect("there is room");
    }
    region.sync().expect("nothing fails");
    let stream = region.stream();
    let stream = region
        .read_records(stream.start, stream.end, 1 << 20)
        .expect("it is there");
    Honest { header, stream }
});

/// Bytes changed: where, and into what.
pub type Edits = Vec<(u16, u8)>;

pub fn edited(bytes: &[u8], edits: &Edits) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for &(at, byte) in edits {
        let len = bytes.len();
        if len > 0 {
            bytes[at as usize % len] = byte;
        }
    }
    bytes
}
