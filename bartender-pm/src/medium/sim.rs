//! The crash simulator: a medium in memory that remembers every write and
//! barrier, and enumerates the images that a crash could have left.
//!
//! # The fault model
//!
//! - What a barrier covered is durable. What was written and not yet covered
//!   survives in *any* subset of units, in any order: 8-byte words on DAX
//!   (caches evict lines when they like; aligned 8-byte stores are atomic),
//!   512-byte sectors on a disk (a sector is whole, new or old).
//! - Lengthening the medium is durable on return.
//! - Bytes that were durable stay as they are. Damage of durable bytes is
//!   another matter: tests ask for it (`damage`, `spoil`).
//!
//! A run records a [`Trace`]; [`Trace::explore`] visits, for every barrier and
//! every note, the images within a bound, all of them where they are few, and
//! else a sample drawn from a seed. One thread's run repeats exactly.

#![allow(unsafe_code)]

use super::{LogStyle, Medium, MediumKind, ViewSource};
use crate::counts;
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::path::{Path, PathBuf};

/// The memory in which simulated regions have their view: one at a time, at
/// the same address after every crash.
pub struct SimMemory {
    base: *mut u8,
    len: usize,
    in_use: AtomicBool,
}

// SAFETY: plain memory that is handed out as a view to one medium at a time.
unsafe impl Send for SimMemory {}
// SAFETY: as above.
unsafe impl Sync for SimMemory {}

impl fmt::Debug for SimMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimMemory({:p}, {} bytes)", self.base, self.len)
    }
}

const VIEW_ALIGN: usize = 2 << 20;

impl SimMemory {
    /// Memory for regions of at most `max_size` bytes.
    pub fn new(max_size: u64) -> Arc<SimMemory> {
        let len = (max_size as usize).next_multiple_of(VIEW_ALIGN);
        let layout = Layout::from_size_align(len, VIEW_ALIGN).expect("a size that fits memory");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        base.expose_provenance();
        Arc::new(SimMemory {
            base,
            len,
            in_use: AtomicBool::new(false),
        })
    }

    /// Its address: the home address of regions made in it.
    pub fn address(&self) -> u64 {
        self.base.addr() as u64
    }

    /// Its length in bytes: the largest maximum size of a region in it.
    pub fn max_size(&self) -> u64 {
        self.len as u64
    }
}

impl Drop for SimMemory {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len, VIEW_ALIGN).expect("checked at creation");
        // SAFETY: allocated by `new` with this layout; the media that lend it
        // out hold a reference, so none is left.
        unsafe { dealloc(self.base, layout) };
    }
}

/// What a medium holds: pages that copies share until they are written.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pages: Vec<std::sync::Arc<[u8; PAGE]>>,
    len: u64,
    /// Pages without space: offsets.
    holes: std::collections::BTreeSet<u64>,
}

const PAGE: usize = 4096;

impl Image {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is blank.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lengthens it with zeroes.
    pub fn grow(&mut self, len: u64) {
        let zeroes = std::sync::Arc::new([0; PAGE]);
        self.len = self.len.max(len);
        self.pages
            .resize((self.len as usize).div_ceil(PAGE), zeroes);
    }

    /// Takes the space of pages away, which are zeroes then.
    fn punch(&mut self, offset: u64, len: u64) {
        let zeroes = std::sync::Arc::new([0; PAGE]);
        for page in (offset..offset + len).step_by(PAGE) {
            self.pages[page as usize / PAGE] = zeroes.clone();
            self.holes.insert(page);
        }
    }

    /// Pages from `offset` on have space.
    fn refill(&mut self, offset: u64, len: u64) {
        self.holes
            .retain(|page| !(offset..offset + len).contains(page));
    }

    /// Whether a range touches a page without space.
    fn has_hole(&self, offset: u64, len: u64) -> bool {
        let first = offset / PAGE as u64 * PAGE as u64;
        self.holes.range(first..offset + len).next().is_some()
    }

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// Beyond its end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        assert!(
            offset + buf.len() as u64 <= self.len,
            "read beyond the medium's end"
        );
        let mut at = offset as usize;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = at % PAGE;
            let n = rest.len().min(PAGE - start);
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&self.pages[at / PAGE][start..start + n]);
            at += n;
            rest = later;
        }
    }

    /// Changes bytes.
    ///
    /// # Panics
    ///
    /// Beyond its end.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(
            offset + bytes.len() as u64 <= self.len,
            "write beyond the medium's end"
        );
        let mut at = offset as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = at % PAGE;
            let n = rest.len().min(PAGE - start);
            let (now, later) = rest.split_at(n);
            let page = std::sync::Arc::make_mut(&mut self.pages[at / PAGE]);
            page[start..start + n].copy_from_slice(now);
            at += n;
            rest = later;
        }
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }
}

impl From<&[u8]> for Image {
    fn from(bytes: &[u8]) -> Image {
        let mut image = Image::default();
        image.grow(bytes.len() as u64);
        image.write(0, bytes);
        image
    }
}

/// What the medium pretends to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimKind {
    /// Persistent memory: 8-byte units, a log of lanes.
    Dax,
    /// A disk: 512-byte units, a log that is one stream.
    Disk,
}

impl SimKind {
    fn unit(self) -> u64 {
        match self {
            SimKind::Dax => 8,
            SimKind::Disk => 512,
        }
    }
}

/// One thing that happened to the medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes were stored at an offset.
    Write(u64, Vec<u8>),
    /// A barrier over these ranges (offset, length) completed.
    Persist(Vec<(u64, u64)>),
    /// The medium was lengthened.
    Grow(u64),
    /// The space under a range (offset, length) was taken away: a crash may
    /// leave any of its pages as before.
    Punch(u64, u64),
    /// A range (offset, length) has space again, durably.
    Refill(u64, u64),
    /// The program told the test something: "transaction n is acknowledged".
    Note(u64),
}

#[derive(Debug, Default)]
struct State {
    image: Image,
    trace: Vec<Event>,
    recording: bool,
    /// Barriers until the next one fails; `None`: never.
    fail_in: Option<u64>,
    /// What cannot be read.
    spoilt: Option<std::ops::Range<u64>>,
    /// There is no space left.
    full: bool,
}

/// The simulated medium.
#[derive(Debug)]
pub struct SimMedium {
    kind: SimKind,
    memory: Arc<SimMemory>,
    path: PathBuf,
    first: Image,
    state: Mutex<State>,
}

impl SimMedium {
    /// A medium that holds `image` (empty: a new one), with its view in `memory`.
    ///
    /// # Panics
    ///
    /// If another medium still uses `memory`.
    pub fn new(kind: SimKind, image: Image, memory: &Arc<SimMemory>) -> Arc<SimMedium> {
        let taken = memory.in_use.swap(true, Ordering::AcqRel);
        assert!(!taken, "one simulated region at a time in one memory");
        Arc::new(SimMedium {
            kind,
            memory: memory.clone(),
            path: PathBuf::from("(simulated)"),
            first: image.clone(),
            state: Mutex::new(State {
                image,
                recording: true,
                ..State::default()
            }),
        })
    }

    /// Records a note in the trace.
    pub fn note(&self, n: u64) {
        self.record(&mut self.state.lock(), Event::Note(n));
    }

    /// From now on nothing is recorded: for long runs whose crashes are not explored.
    pub fn stop_recording(&self) {
        self.state.lock().recording = false;
    }

    /// Lets the `n`th barrier from now (0: the next) fail with an I/O error.
    pub fn fail_in(&self, n: u64) {
        self.state.lock().fail_in = Some(n);
    }

    /// Barriers succeed again.
    pub fn fail_never(&self) {
        self.state.lock().fail_in = None;
    }

    /// There is no space left, or there is again: it cannot be lengthened, and holes stay holes. What has its space is
    /// written as before.
    pub fn fill_up(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// Durable bytes become others, as by decay.
    ///
    /// # Panics
    ///
    /// Beyond its end.
    pub fn damage(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.image.write(offset, bytes);
        self.record(&mut state, Event::Write(offset, bytes.to_vec()));
        let range = vec![(offset, bytes.len() as u64)];
        self.record(&mut state, Event::Persist(range));
    }

    /// Bytes can be read no more before they are written again.
    pub fn spoil(&self, offset: u64, len: u64) {
        self.state.lock().spoilt = Some(offset..offset + len);
    }

    /// What the medium holds now, durable or not.
    pub fn image(&self) -> Image {
        self.state.lock().image.clone()
    }

    /// What happened so far.
    pub fn trace(&self) -> Trace {
        let state = self.state.lock();
        Trace {
            unit: self.kind.unit(),
            first: self.first.clone(),
            events: state.trace.clone(),
        }
    }

    fn record(&self, state: &mut State, event: Event) {
        if state.recording {
            state.trace.push(event);
        }
    }

    /// That space can be had.
    fn space(&self, state: &State) -> Result<()> {
        if state.full {
            return Err(Error::Io {
                path: self.path.clone(),
                action: "allocate space in",
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(())
    }

    fn store(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<()> {
        if state.image.has_hole(offset, bytes.len() as u64) {
            // A real medium finds space, as a rule. Nobody may rely on it.
            return Err(Error::Io {
                path: self.path.clone(),
                action: "store into a hole of",
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        state.image.write(offset, bytes);
        let end = offset + bytes.len() as u64;
        state
            .spoilt
            .take_if(|spoilt| offset <= spoilt.start && spoilt.end <= end);
        self.record(state, Event::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn barrier(&self, state: &mut State, ranges: Vec<(u64, u64)>) -> Result<()> {
        counts::barrier();
        if let Some(n) = state.fail_in.as_mut() {
            if *n == 0 {
                return Err(Error::Io {
                    path: self.path.clone(),
                    action: "write to",
                    source: std::io::Error::other("simulated I/O error"),
                });
            }
            *n -= 1;
        }
        // Mutant: a log append that does not wait.
        let in_log =
            |&(offset, len): &(u64, u64)| offset >= 8192 && offset + len <= 8192 + (16 << 10);
        if crate::mutant::is("no_log_barrier") && ranges.iter().all(in_log) {
            return Ok(());
        }
        for &(offset, len) in &ranges {
            counts::lines(crate::instr::lines_of(offset as usize, len as usize).1 as u64);
        }
        self.record(state, Event::Persist(ranges));
        Ok(())
    }
}

impl Drop for SimMedium {
    fn drop(&mut self) {
        self.memory.in_use.store(false, Ordering::Release);
    }
}

impl Medium for SimMedium {
    fn kind(&self) -> MediumKind {
        MediumKind::Simulated
    }

    fn log_style(&self) -> LogStyle {
        match self.kind {
            SimKind::Dax => LogStyle::Lanes,
            SimKind::Disk => LogStyle::Stream,
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.state.lock().image.len()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let state = self.state.lock();
        let end = offset + buf.len() as u64;
        if (state.spoilt.as_ref()).is_some_and(|s| offset < s.end && s.start < end) {
            return Err(Error::Io {
                path: self.path.clone(),
                action: "read",
                source: std::io::Error::other("simulated I/O error"),
            });
        }
        state.image.read(offset, buf);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.store(&mut self.state.lock(), offset, bytes)
    }

    fn persist(&self, ranges: &[(u64, u64)]) -> Result<()> {
        self.barrier(&mut self.state.lock(), ranges.to_vec())
    }

    fn append(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let mut state = self.state.lock();
        for &(offset, bytes) in pieces {
            self.store(&mut state, offset, bytes)?;
        }
        let ranges = pieces
            .iter()
            .map(|&(offset, bytes)| (offset, bytes.len() as u64))
            .collect();
        self.barrier(&mut state, ranges)
    }

    fn grow(&self, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        if len > state.image.len() {
            self.space(&state)?;
            state.image.grow(len);
            self.record(&mut state, Event::Grow(len));
        }
        Ok(())
    }

    fn has_holes(&self) -> bool {
        true
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.image.punch(offset, len);
        self.record(&mut state, Event::Punch(offset, len));
        Ok(())
    }

    fn refill(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        if state.image.has_hole(offset, len) {
            self.space(&state)?;
        }
        state.image.refill(offset, len);
        self.record(&mut state, Event::Refill(offset, len));
        Ok(())
    }

    fn view(&self) -> ViewSource<'_> {
        ViewSource::Memory {
            base: self.memory.base,
            len: self.memory.len as u64,
        }
    }
}

/// What happened to a medium, from its first image on.
#[derive(Debug, Clone)]
pub struct Trace {
    unit: u64,
    first: Image,
    events: Vec<Event>,
}

/// How far an exploration goes.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Most images per crash point: all subsets where there are no more.
    pub images_per_point: usize,
    /// Crash points to visit at most, spread evenly; `usize::MAX`: all.
    pub points: usize,
    /// Seed of the sample.
    pub seed: u64,
}

impl Default for Bound {
    fn default() -> Self {
        Bound {
            images_per_point: 64,
            points: usize::MAX,
            seed: 0x5eed,
        }
    }
}

/// A crash: what the medium holds and what the program had said before.
#[derive(Debug)]
pub struct Crash<'a> {
    /// The image.
    pub image: Image,
    /// The notes before the crash, in order.
    pub notes: &'a [u64],
    /// Which event of the trace did not happen any more.
    pub event: usize,
    /// Which of the point's images this is.
    pub nth: usize,
}

/// Seeded pseudo-random numbers (splitmix64, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (which is not 0).
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }
}

/// A unit's worth of bytes that no barrier has covered yet, or a page whose
/// space was taken away: then there are no bytes.
#[derive(Debug, Clone)]
struct Pending {
    offset: u64,
    bytes: Vec<u8>,
}

impl Pending {
    fn hole(offset: u64) -> Pending {
        let bytes = Vec::new();
        Pending { offset, bytes }
    }

    fn happen(&self, image: &mut Image) {
        if self.bytes.is_empty() {
            image.punch(self.offset, PAGE as u64);
        } else {
            image.write(self.offset, &self.bytes);
        }
    }
}

impl Trace {
    /// The events.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// One image, drawn from `rng`, that a crash before event `at` could have left.
    ///
    /// # Panics
    ///
    /// If there are not so many events.
    pub fn image_before(&self, at: usize, rng: &mut Rng) -> Image {
        let mut durable = self.first.clone();
        let mut pending = Vec::new();
        for event in &self.events[..at] {
            self.apply(event, &mut durable, &mut pending);
        }
        // Nothing and everything are as likely as a mixture.
        let mode = rng.below(4);
        for write in &pending {
            if mode == 0 || mode > 1 && rng.below(2) == 0 {
                write.happen(&mut durable);
            }
        }
        durable
    }

    fn apply(&self, event: &Event, durable: &mut Image, pending: &mut Vec<Pending>) {
        match event {
            Event::Write(offset, bytes) => split(self.unit, *offset, bytes, pending),
            Event::Persist(ranges) => settle(self.unit, ranges, durable, pending),
            Event::Grow(len) => durable.grow(*len),
            Event::Punch(offset, len) => {
                pending.extend((*offset..offset + len).step_by(PAGE).map(Pending::hole));
            }
            Event::Refill(offset, len) => {
                settle(self.unit, &[(*offset, *len)], durable, pending);
                durable.refill(*offset, *len);
            }
            Event::Note(_) => {}
        }
    }

    /// Calls `check` with every image within `bound`, and returns how many
    /// there were. `check` panics or returns an error where an image is not
    /// recovered to what it must be; the error then names the crash.
    pub fn explore<E: fmt::Display>(
        &self,
        bound: Bound,
        mut check: impl FnMut(Crash<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<u64, String> {
        let points = self.events.iter().filter(|e| is_point(e)).count() + 1;
        let every = points.div_ceil(bound.points.max(1)).max(1);
        let mut durable = self.first.clone();
        let mut pending: Vec<Pending> = Vec::new();
        let mut notes = Vec::new();
        let mut images = 0u64;
        let mut point = 0;
        for at in 0..=self.events.len() {
            let event = self.events.get(at);
            if event.is_none_or(is_point) {
                if point % every == 0 || event.is_none() {
                    let mut rng = Rng(bound.seed ^ (at as u64).wrapping_mul(0x2545_f491));
                    for (nth, subset) in
                        subsets(pending.len(), bound.images_per_point, &mut rng).enumerate()
                    {
                        let mut image = durable.clone();
                        for (write, _) in pending.iter().zip(&subset).filter(|(_, keep)| **keep) {
                            write.happen(&mut image);
                        }
                        images += 1;
                        check(Crash {
                            image,
                            notes: &notes,
                            event: at,
                            nth,
                        })
                        .map_err(|e| {
                            format!(
                                "crash before event {at} of {}, image {nth}, seed {:#x}: {e}",
                                self.events.len(),
                                bound.seed
                            )
                        })?;
                    }
                }
                point += 1;
            }
            if let Some(Event::Note(n)) = event {
                notes.push(*n);
            }
            if let Some(event) = event {
                self.apply(event, &mut durable, &mut pending);
            }
        }
        Ok(images)
    }
}

/// Crashes are explored before barriers (where most is pending) and before
/// notes (where what was answered changes).
fn is_point(event: &Event) -> bool {
    matches!(event, Event::Persist(_) | Event::Note(_))
}

/// Adds a write to the pending ones, unit by unit.
fn split(unit: u64, offset: u64, bytes: &[u8], pending: &mut Vec<Pending>) {
    let mut at = 0;
    while at < bytes.len() {
        let start = offset + at as u64;
        let n = ((start / unit + 1) * unit - start).min((bytes.len() - at) as u64) as usize;
        pending.push(Pending {
            offset: start,
            bytes: bytes[at..at + n].to_vec(),
        });
        at += n;
    }
}

/// A barrier: pending units that it touches become durable, in order.
fn settle(unit: u64, ranges: &[(u64, u64)], durable: &mut Image, pending: &mut Vec<Pending>) {
    let covered = |p: &Pending| {
        ranges.iter().any(|&(offset, len)| {
            let first = offset / unit * unit;
            let end = (offset + len).next_multiple_of(unit);
            len > 0 && p.offset < end && p.offset >= first
        })
    };
    pending.retain(|p| {
        let covered = covered(p);
        if covered {
            p.happen(durable);
        }
        !covered
    });
}

/// All subsets of `n` things if there are at most `most`; else none, all, each
/// one missing, each one alone, as far as `most` goes, and then a sample.
fn subsets<'r>(
    n: usize,
    most: usize,
    rng: &'r mut Rng,
) -> Box<dyn Iterator<Item = Vec<bool>> + 'r> {
    let all = if n < 32 { 1usize << n } else { usize::MAX };
    if all <= most.max(1) {
        return Box::new((0..all).map(move |bits| (0..n).map(|i| bits >> i & 1 == 1).collect()));
    }
    let special = 2 + 2 * n;
    Box::new((0..most).map(move |k| {
        // Every other one is drawn when there are more special ones than room.
        if special <= most / 2 || k % 2 == 0 {
            let k = if special <= most / 2 { k } else { k / 2 };
            match k {
                0 => return vec![false; n],
                1 => return vec![true; n],
                _ if k < special => {
                    let i = if special <= most / 2 {
                        k - 2
                    } else {
                        rng.below(2 * n as u64) as usize
                    };
                    let (i, missing) = (i / 2, i.is_multiple_of(2));
                    return (0..n).map(|j| (j == i) != missing).collect();
                }
                _ => {}
            }
        }
        let mut bits = 0u64;
        (0..n)
            .map(|j| {
                if j % 64 == 0 {
                    bits = rng.draw();
                }
                bits >> (j % 64) & 1 == 1
            })
            .collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_leaves_any_subset_of_undrained_units_and_nothing_else() {
        let memory = SimMemory::new(1);
        let sim = SimMedium::new(SimKind::Dax, Image::from(&[0; 32][..]), &memory);
        sim.write(0, &[1; 16]).expect("in range");
        sim.persist(&[(0, 8)]).expect("simulated");
        sim.write(8, &[2; 8]).expect("in range");
        let mut seen = std::collections::BTreeSet::new();
        let images = sim
            .trace()
            .explore(Bound::default(), |crash| {
                let i = crash.image.to_vec();
                seen.insert((crash.event, i[0], i[8]));
                Ok::<_, String>(())
            })
            .expect("the check accepts all");
        // Before the barrier: 4 subsets of two words. After: word 0 is
        // durable, word 1 is old, first or second (two writes of it pending).
        assert_eq!(images, 8);
        let expected = [
            (1, 0, 0),
            (1, 0, 1),
            (1, 1, 0),
            (1, 1, 1),
            (3, 1, 0),
            (3, 1, 1),
            (3, 1, 2),
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sectors_are_whole_on_a_disk() {
        let memory = SimMemory::new(1);
        let sim = SimMedium::new(SimKind::Disk, Image::from(&[0; 2048][..]), &memory);
        sim.append(&[(256, &[7; 1024])]).expect("in range");
        let mut seen = std::collections::BTreeSet::new();
        sim.trace()
            .explore(Bound::default(), |crash| {
                let i = crash.image.to_vec();
                assert_eq!(i[256], i[511]);
                assert_eq!(i[512], i[1023]);
                assert_eq!(i[1024], i[1279]);
                seen.insert((i[256], i[512], i[1024]));
                Ok::<_, String>(())
            })
            .expect("the check accepts all");
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn the_sample_repeats_and_holds_the_extremes() {
        let draw = |seed| subsets(40, 16, &mut Rng(seed)).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).contains(&vec![false; 40]) && draw(1).contains(&vec![true; 40]));
    }
}
