//! loom models of the log: lanes against the checkpoint's horizon, group commit
//! with early lock release, closing against running writers (in `gate`).

use crate::error::Result;
use crate::log::{Lane, Log};
use crate::medium::{LogStyle, Medium, MediumKind, ViewSource};
use crate::record::Record;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, thread};
use std::path::Path;

/// Remembers which bytes were appended, in order; each append is one step.
#[derive(Debug, Default)]
struct Appended(Mutex<Vec<u64>>);

impl Medium for Appended {
    fn kind(&self) -> MediumKind {
        MediumKind::Simulated
    }
    fn log_style(&self) -> LogStyle {
        LogStyle::Lanes
    }
    fn path(&self) -> &Path {
        Path::new("(loom)")
    }
    fn len(&self) -> u64 {
        0
    }
    fn read(&self, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn persist(&self, _: &[(u64, u64)]) -> Result<()> {
        Ok(())
    }
    fn append(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let mut seqs = self.0.lock();
        for (_, bytes) in pieces {
            for record in bytes.chunks(64) {
                seqs.push(u64::from_le_bytes(
                    record[16..24].try_into().expect("eight bytes"),
                ));
            }
        }
        Ok(())
    }
    fn grow(&self, _: u64) -> Result<()> {
        Ok(())
    }
    fn view(&self) -> ViewSource<'_> {
        ViewSource::Memory {
            base: std::ptr::null_mut(),
            len: 0,
        }
    }
}

fn log(style: LogStyle, lanes: u64) -> Log {
    Log::new(
        style,
        1,
        (0..lanes)
            .map(|i| Lane::new(i * 4096, 4096, 0, 0))
            .collect(),
        1,
    )
}

fn record(word: u64) -> Record {
    let mut record = Record::new();
    record.change(word * 8, &word.to_le_bytes());
    record
}

/// Whatever the checkpoint takes for durable is durable and inside the tails.
#[test]
fn loom_horizon_never_passes_a_pending_commit() {
    loom::model(|| {
        let log = Arc::new(log(LogStyle::Lanes, 3));
        let medium = Arc::new(Appended::default());
        let committers: Vec<_> = (0..2)
            .map(|slot| {
                let (log, medium) = (log.clone(), medium.clone());
                thread::spawn(move || {
                    assert!(
                        log.append(&*medium, Some(slot), &mut record(slot as u64))
                            .is_ok()
                    );
                })
            })
            .collect();
        let horizon = log.horizon();
        let tails: u64 = log
            .lanes
            .iter()
            .map(|l| l.tail.load(Ordering::Acquire))
            .sum();
        let durable = medium.0.lock().clone();
        for seq in 1..=horizon {
            assert!(
                durable.contains(&seq),
                "{seq} is not durable, the horizon is {horizon}"
            );
        }
        assert!(
            tails >= horizon * 64,
            "a record below the horizon is not inside its tail"
        );
        for committer in committers {
            committer.join().expect("the model's thread");
        }
        assert_eq!(log.horizon(), 2);
    });
}

/// A stream: the lock is released as soon as the record has its position; who
/// is answered is durable, with everything it could have seen.
#[test]
fn loom_group_commit_answers_only_what_is_durable() {
    loom::model(|| {
        let log = Arc::new(log(LogStyle::Stream, 1));
        let medium = Arc::new(Appended::default());
        // The last number committed under this lock.
        let lock = Arc::new(Mutex::new(0u64));
        let commit = |log: &Log, medium: &Appended, lock: &Mutex<u64>| {
            let mut last = lock.lock();
            let seen = *last;
            let Ok(seq) = log.append(medium, None, &mut record(1)) else {
                panic!("room")
            };
            *last = seq;
            drop(last);
            assert!(log.wait_durable(medium, seq).is_ok());
            let durable = medium.0.lock().clone();
            assert!(durable.contains(&seq) && (seen == 0 || durable.contains(&seen)));
            assert!(
                durable.is_sorted(),
                "the stream is in the order of its numbers"
            );
        };
        let other = {
            let (log, medium, lock) = (log.clone(), medium.clone(), lock.clone());
            thread::spawn(move || commit(&log, &medium, &lock))
        };
        commit(&log, &medium, &lock);
        // A reader under the lock waits for the lock's number.
        let last = *lock.lock();
        assert!(log.wait_durable(&*medium, last).is_ok());
        assert!(medium.0.lock().contains(&last));
        other.join().expect("the model's thread");
    });
}
