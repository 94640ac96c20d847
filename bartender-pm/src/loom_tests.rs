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
    commits_against_the_horizon();
}

/// The same without the rule that makes it so (2, sequence gaps).
#[test]
#[should_panic(expected = "the horizon")]
fn loom_a_horizon_that_ignores_pending_commits_is_noticed() {
    crate::mutant::with("ignore_pending", commits_against_the_horizon);
}

fn commits_against_the_horizon() {
    // `std`'s own: it counts over the executions of the model, not inside.
    let beyond = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = beyond.clone();
    loom::model(move || {
        let log = Arc::new(log(LogStyle::Lanes, 3));
        let medium = Arc::new(Appended::default());
        let commit = |slot| {
            let (log, medium) = (log.clone(), medium.clone());
            move || {
                let appended = log.append(&*medium, Some(slot), &mut record(slot as u64));
                assert!(appended.is_ok());
            }
        };
        let other = thread::spawn(commit(0));
        let checkpoint = {
            let (log, medium, seen) = (log.clone(), medium.clone(), seen.clone());
            thread::spawn(move || {
                let horizon = log.horizon();
                let tails: u64 = log
                    .lanes
                    .iter()
                    .map(|l| l.tail.load(Ordering::Acquire))
                    .sum();
                let durable = medium.0.lock().clone();
                for seq in 1..=horizon {
                    let durable = durable.contains(&seq);
                    assert!(durable, "{seq} is not durable, the horizon is {horizon}");
                }
                assert!(
                    tails >= horizon * 64,
                    "a record below the horizon is not inside its tail"
                );
                seen.fetch_max(horizon, std::sync::atomic::Ordering::Relaxed);
            })
        };
        commit(1)();
        other.join().expect("the model's thread");
        checkpoint.join().expect("the model's thread");
        assert_eq!(log.horizon(), 2);
    });
    // Otherwise the model would show nothing.
    assert_eq!(beyond.load(std::sync::atomic::Ordering::Relaxed), 2);
}

/// A stream: the lock is released as soon as the record has its position; who
/// is answered is durable, with everything it could have seen.
#[test]
fn loom_group_commit_answers_only_what_is_durable() {
    assert!(!answers_what_is_not_durable());
}

/// The same where nobody waits (rule 3, when locks are released).
#[test]
fn loom_an_answer_before_the_barrier_is_noticed() {
    assert!(crate::mutant::with(
        "answer_early",
        answers_what_is_not_durable
    ));
}

/// Whether somebody was answered too early in some execution. (A panic inside
/// of the model, while others hold locks, would abort the tests.)
fn answers_what_is_not_durable() -> bool {
    let early = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let result = early.clone();
    loom::model(move || {
        let log = Arc::new(log(LogStyle::Stream, 1));
        let medium = Arc::new(Appended::default());
        // The last number committed under this lock.
        let lock = Arc::new(Mutex::new(0u64));
        let commit = || {
            let (log, medium, lock) = (log.clone(), medium.clone(), lock.clone());
            let early = early.clone();
            move || {
                let mut last = lock.lock();
                let seen = *last;
                let Ok(seq) = log.append(&*medium, None, &mut record(1)) else {
                    panic!("room")
                };
                *last = seq;
                drop(last);
                assert!(log.wait_durable(&*medium, seq).is_ok());
                let durable = medium.0.lock().clone();
                let whole = durable.contains(&seq) && (seen == 0 || durable.contains(&seen));
                let ordered = durable.is_sorted();
                early.fetch_or(!whole || !ordered, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let reader = {
            let (log, medium, lock) = (log.clone(), medium.clone(), lock.clone());
            let early = early.clone();
            move || {
                // A reader under the lock waits for the lock's number.
                let last = *lock.lock();
                assert!(log.wait_durable(&*medium, last).is_ok());
                let durable = last == 0 || medium.0.lock().contains(&last);
                early.fetch_or(!durable, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let others = [thread::spawn(commit()), thread::spawn(reader)];
        commit()();
        for other in others {
            other.join().expect("the model's thread");
        }
    });
    result.load(std::sync::atomic::Ordering::Relaxed)
}

/// Nothing is appended to a log before it is searched, and nothing at all where that finds
/// damage; also where somebody else poisons it at the same time.
#[test]
fn loom_commits_wait_until_the_log_is_searched() {
    commits_against_the_search();
}

/// The same where commits do not wait.
#[test]
#[should_panic(expected = "appended")]
fn loom_a_commit_to_a_log_that_is_not_searched_is_noticed() {
    crate::mutant::with("append_unsearched", commits_against_the_search);
}

fn commits_against_the_search() {
    for damaged in [true, false] {
        loom::model(move || {
            let log = Arc::new(log(LogStyle::Lanes, 2));
            let medium = Arc::new(Appended::default());
            log.wait_for_search();
            let commit = {
                let (log, medium) = (log.clone(), medium.clone());
                thread::spawn(move || log.append(&*medium, Some(0), &mut record(1)).is_ok())
            };
            let search = {
                let log = log.clone();
                thread::spawn(move || {
                    if damaged {
                        log.poison_because("by the search".into());
                    }
                    log.searched();
                })
            };
            if !damaged {
                log.poison_because("by somebody else".into());
            }
            let appended = commit.join().expect("no panic");
            assert!(!(damaged && appended), "appended to a damaged log");
            search.join().expect("no panic");
            assert!(log.check().is_err(), "who poisons is heard");
        });
    }
}
