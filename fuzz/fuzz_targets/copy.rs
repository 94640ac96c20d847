//! A copy of a region that is sent anything by somebody with a primary's certificate: it refuses with an error, and what
//! was committed stays. Checksums of records count as right, so that what they protect is reached.

#![no_main]

mod honest;

use bartender_pm::medium::sim::SimMemory;
use bartender_pm::{Standby, mutant};
use honest::{Edits, HONEST, MAX_SIZE, edited, medium};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Step {
    Promise(u64),
    /// `len` bytes of the stream from `from` on, for the offset that is expected.
    Receive {
        epoch: u8,
        from: u16,
        len: u16,
        edits: Edits,
    },
    /// For any other one.
    ReceiveAt {
        epoch: u64,
        at: u64,
        bytes: Vec<u8>,
    },
    Commit(u64),
    Checkpoint,
    Reopen,
}

#[derive(Debug, Arbitrary)]
struct Sent {
    header: Edits,
    cut: Option<u8>,
    home: Vec<(u64, u8)>,
    steps: Vec<Step>,
}

fuzz_target!(|sent: Sent| {
    let memory = SimMemory::new(MAX_SIZE);
    let medium = medium(&memory);
    let mut header = edited(&HONEST.header, &sent.header);
    if let Some(cut) = sent.cut {
        header.truncate(cut.into());
    }
    let Ok(mut installing) = Standby::install_on(medium.clone(), &header) else {
        return;
    };
    for (offset, byte) in sent.home {
        let _ = installing.home(offset, &[byte; 100]);
    }
    let Ok(mut standby) = installing.finish() else {
        return;
    };
    let mut epoch = standby.position().epoch;
    for step in sent.steps {
        let before = standby.position();
        match step {
            Step::Promise(promised) => {
                if standby.promise(promised).is_ok() {
                    epoch = promised;
                }
            }
            Step::Receive {
                epoch: off,
                from,
                len,
                edits,
            } => {
                let stream = &HONEST.stream;
                let from = from as usize % stream.len() / 64 * 64;
                let end = stream.len().min(from + len as usize);
                let bytes = edited(&stream[from..end], &edits);
                let at = standby.expected();
                let epoch = epoch.wrapping_add(off.into());
                let _ = mutant::with("no_checksum", || standby.receive(epoch, at, &bytes));
            }
            Step::ReceiveAt { epoch, at, bytes } => {
                let _ = mutant::with("no_checksum", || standby.receive(epoch, at, &bytes));
            }
            Step::Commit(upto) => standby.commit(epoch, upto),
            Step::Checkpoint => {
                let _ = standby.checkpoint();
            }
            Step::Reopen => {
                drop(standby);
                match Standby::open_on(medium.clone()) {
                    Ok(opened) => standby = opened,
                    Err(_) => return,
                }
                epoch = standby.position().epoch;
                continue;
            }
        }
        let after = standby.position();
        assert!(after.epoch >= before.epoch, "{before:?} {after:?}");
        assert!(after.committed >= before.committed, "{before:?} {after:?}");
        assert!(after.tail >= after.committed, "{before:?} {after:?}");
    }
});
