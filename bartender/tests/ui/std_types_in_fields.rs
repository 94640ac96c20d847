//! Types that keep their contents in process memory: the error names the persistent twin.

use bartender::{PVec, Persist};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

#[derive(Persist)]
#[repr(C)]
struct Account {
    owner: String,
    entries: Vec<u64>,
    parent: Option<Box<Account>>,
    by_name: HashMap<u64, u64>,
    by_day: PVec<BTreeMap<u64, u64>>,
    shared: Rc<u64>,
    counted: (u8, Arc<u64>),
    locked: std::sync::Mutex<u64>,
    inner: Cell<u64>,
    hits: AtomicU64,
    borrowed: &'static str,
    raw: *const u64,
    call: fn(u64) -> u64,
    since: std::time::Instant,
    outcome: Result<u64, u32>,
}

#[derive(Persist)]
#[repr(u8)]
enum Shape {
    Named { name: String },
    Locked(Mutex<u64>),
}

fn main() {}
