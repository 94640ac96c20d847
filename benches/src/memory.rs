//! What ordinary memory would cost: look-up, iteration, bulk load.

use crate::harness::{Report, Subject, nanos};
use bartender::{Heap, PBox, PHashMap, PMutex, PVec, Persist};
use std::collections::HashMap;
use std::error::Error;
use std::hash::BuildHasher;
use std::hint::black_box;

/// The hasher of `PHashMap`, for `std`'s map.
#[derive(Clone)]
struct SameHasher;

impl BuildHasher for SameHasher {
    type Hasher = siphasher::sip::SipHasher13;
    fn build_hasher(&self) -> Self::Hasher {
        siphasher::sip::SipHasher13::new_with_keys(1, 2)
    }
}

#[derive(Persist, Default)]
#[repr(C)]
struct Data {
    map: PHashMap<u64, u64>,
    list: PVec<u64>,
}

const KEYS: u64 = 1_000_000;

pub(crate) fn reading(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let heap = Heap::<PMutex<Data>>::options()
        .max_size(4 << 30)
        .log_size(512 << 20)
        .open(folder.path().join("a.region"))?;
    let key = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in 0..10 {
        heap.update(|mut data| {
            let mut map = data.map_mut();
            for i in part * KEYS / 10..(part + 1) * KEYS / 10 {
                map.insert(key(i), i)?;
            }
            let mut list = data.list_mut();
            for i in part * KEYS..(part + 1) * KEYS {
                list.push(i)?;
            }
            Ok(())
        })?;
    }
    let mut peer_map = HashMap::with_hasher(SameHasher);
    (0..KEYS).for_each(|i| {
        peer_map.insert(key(i), i);
    });
    let peer_list: Vec<u64> = (0..10 * KEYS).collect();
    let data = heap.read();
    let order: Vec<u64> = (0..KEYS)
        .map(|i| key(i.wrapping_mul(7919) % KEYS))
        .collect();

    let w = "look up in a map of a million";
    let subjects: Vec<Subject<'_>> = vec![
        (
            "std HashMap, same hasher",
            Box::new(|| {
                nanos(KEYS, || {
                    black_box(order.iter().map(|k| peer_map[k]).sum::<u64>());
                })
            }),
        ),
        (
            "PHashMap",
            Box::new(|| {
                nanos(KEYS, || {
                    black_box(order.iter().map(|k| data.map[k]).sum::<u64>());
                })
            }),
        ),
    ];
    report.measure(w, 1, "ns", 7, subjects);
    report.at_most(
        "PHashMap look-up against std's",
        report.median(w, 1, "PHashMap") / report.median(w, 1, "std HashMap, same hasher"),
        1.5,
    );

    let w = "iterate over ten million words";
    let subjects: Vec<Subject<'_>> = vec![
        (
            "Vec",
            Box::new(|| {
                nanos(10 * KEYS, || {
                    black_box(
                        black_box(&peer_list)
                            .iter()
                            .fold(0, |a: u64, &x| a.rotate_left(1) ^ x),
                    );
                })
            }),
        ),
        (
            "PVec",
            Box::new(|| {
                nanos(10 * KEYS, || {
                    black_box(
                        black_box(&data.list)
                            .iter()
                            .fold(0, |a: u64, &x| a.rotate_left(1) ^ x),
                    );
                })
            }),
        ),
    ];
    report.measure(w, 1, "ns", 7, subjects);
    report.at_most(
        "PVec iteration against Vec's",
        report.median(w, 1, "PVec") / report.median(w, 1, "Vec"),
        1.05,
    );
    Ok(())
}

const OBJECT: usize = 64;
const BULK: usize = 1 << 30;

/// A gigabyte of 64-byte objects, and the same stores into a plain mapping.
pub(crate) fn bulk(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let w = "bulk load of 1 GiB of 64-byte objects";
    let plain = || {
        let folder = tempfile::tempdir_in("/dev/shm").expect("shared memory");
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("plain"))
            .expect("creates");
        file.set_len(BULK as u64).expect("room");
        let start = std::time::Instant::now();
        // SAFETY: a fresh mapping of a file of this length, filled once.
        unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                BULK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            );
            assert_ne!(base, libc::MAP_FAILED);
            let base: *mut [u64; 8] = base.cast();
            for i in 0..BULK / OBJECT {
                base.add(i).write([i as u64; 8]);
            }
            libc::munmap(base.cast(), BULK);
        }
        start.elapsed().as_secs_f64()
    };
    let ours = || {
        let folder = tempfile::tempdir_in("/dev/shm").expect("shared memory");
        let heap = Heap::<PMutex<PVec<PBox<[u64; 8]>>>>::options()
            .max_size(4 << 30)
            .log_size(256 << 20)
            .open(folder.path().join("a.region"))
            .expect("creates");
        let start = std::time::Instant::now();
        let n = BULK / OBJECT;
        let batch = n / 64;
        heap.update(|mut list| list.reserve(n)).expect("room");
        for part in 0..64 {
            heap.update(|mut list| {
                for i in part * batch..(part + 1) * batch {
                    list.push(PBox::new([i as u64; 8]))?;
                }
                Ok(())
            })
            .expect("room");
        }
        heap.sync().expect("no I/O error");
        start.elapsed().as_secs_f64()
    };
    let subjects: Vec<Subject<'_>> = vec![
        ("plain shared mapping", Box::new(plain)),
        ("PVec<PBox<[u64; 8]>>", Box::new(ours)),
    ];
    report.measure(w, 1, "s", 5, subjects);
    report.at_most(
        "bulk load against a plain shared mapping",
        report.median(w, 1, "PVec<PBox<[u64; 8]>>") / report.median(w, 1, "plain shared mapping"),
        1.5,
    );
    Ok(())
}
