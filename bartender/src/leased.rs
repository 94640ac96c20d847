//! Heaps whose reads are the latest only while a lease lasts: those on the primary of a replicated region.
//!
//! A read guard knows an address and nothing else, so the regions are found by address. Who has none replicated pays one
//! load.

use crate::error::Result;
use bartender_pm::Region;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

/// How many there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static REGIONS: RwLock<Vec<(Range<usize>, Region)>> = RwLock::new(Vec::new());

/// From now on reads in `region` are checked, if it is replicated.
pub(crate) fn add(region: &Region) {
    if region.is_replicated() {
        let base = region.base().addr();
        let range = base..base + region.max_size() as usize;
        let mut regions = REGIONS.write().unwrap_or_else(PoisonError::into_inner);
        regions.push((range, region.clone()));
        COUNT.store(regions.len(), Ordering::Release);
    }
}

/// Its heap is closed.
pub(crate) fn remove(region: &Region) {
    if region.is_replicated() {
        let base = region.base().addr();
        let mut regions = REGIONS.write().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|(range, _)| range.start != base);
        COUNT.store(regions.len(), Ordering::Release);
    }
}

/// Whether what is at `addr` may be shown as the latest.
#[inline]
pub(crate) fn check(addr: usize) -> Result<()> {
    // Relaxed: who has a heap got it from who opened it.
    if COUNT.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    check_all(addr)
}

#[cold]
fn check_all(addr: usize) -> Result<()> {
    let regions = REGIONS.read().unwrap_or_else(PoisonError::into_inner);
    match regions.iter().find(|(range, _)| range.contains(&addr)) {
        Some((_, region)) => Ok(region.check_current()?),
        None => Ok(()),
    }
}
