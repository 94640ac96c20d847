//! How fast marking is over blocks of 64 bytes, with a table of superblocks as an allocator has
//! one. Run it by `cargo test -p bartender-heap --release speed -- --ignored --nocapture`.

use super::*;
use crate::block::{BlockRef, Blocks, NotABlock};
use crate::layout::RawVec;
use bartender_pm::sync::atomic::{AtomicU64, Ordering};

/// Superblocks of 64 KiB in blocks of 64 bytes, each with its marks; one long run in front of them.
struct Superblocks {
    units: Vec<u32>,
    superblocks: Vec<[AtomicU64; 16]>,
    run: (u64, u64),
}

impl Blocks for Superblocks {
    #[inline]
    fn locate(&self, offset: u64) -> Result<BlockRef, NotABlock> {
        let unit = self.units.get((offset >> 13) as usize);
        match unit {
            None => Err(NotABlock::Outside),
            Some(0) if offset == self.run.0 => Ok(BlockRef {
                mark: 0,
                start: offset,
                size: self.run.1,
            }),
            Some(0) => Err(NotABlock::NoSuperblock),
            Some(&superblock) => {
                let inside = offset & 0xffff;
                match inside & 63 {
                    0 => Ok(BlockRef {
                        mark: u64::from(superblock) * 1024 + (inside >> 6),
                        start: offset,
                        size: 64,
                    }),
                    _ => Err(NotABlock::NotAStart),
                }
            }
        }
    }

    #[inline]
    fn words(&self) -> usize {
        self.superblocks.len() * 16
    }

    #[inline]
    fn mark(&self, word: usize, bits: u64) -> bool {
        self.superblocks[word / 16][word % 16].fetch_or(bits, Ordering::Relaxed) & bits == 0
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Pointing {
    link: Option<PBox<Pointing>>,
    rest: [u64; 7],
}
impl Sample for Pointing {
    fn describe(b: &mut SchemaBuilder) -> TypeRef {
        b.define::<Pointing>(|b| {
            let ty = Option::<PBox<Pointing>>::describe(b);
            let fields = vec![Field {
                name: "link".into(),
                offset: 0,
                ty,
            }];
            Type::of::<Pointing>("Pointing", Kind::Struct { fields })
        })
    }
}

fn measure<T: Sample>(what: &str, count: u64, shuffled: bool, list: bool) {
    const SUPERBLOCK: u64 = 64 << 10;
    let run = SUPERBLOCK;
    let run_len = ((count + 4) * 8).next_multiple_of(SUPERBLOCK);
    let start = run + run_len;
    let end = start + (count * 64).next_multiple_of(SUPERBLOCK);
    let mut bytes = vec![0u8; end as usize];
    let superblocks = (end / SUPERBLOCK) as usize;
    let blocks = Superblocks {
        units: (0..end >> 13)
            .map(|unit| match unit << 13 >= start {
                true => (unit >> 3) as u32,
                false => 0,
            })
            .collect(),
        superblocks: (0..superblocks).map(|_| Default::default()).collect(),
        run: (run, run_len),
    };
    let mut order: Vec<u64> = (0..count).map(|i| BASE + start + i * 64).collect();
    if shuffled {
        let mut seed = 7u64;
        for i in (1..count).rev() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            order.swap(i as usize, ((seed >> 33) % (i + 1)) as usize);
        }
    }
    let mut put = |at: u64, value: u64| {
        bytes[at as usize..][..8].copy_from_slice(&value.to_le_bytes());
    };
    let len = if list { 1 } else { count };
    for (i, &ptr) in order.iter().enumerate() {
        if list && i + 1 < order.len() {
            put(home(ptr), order[i + 1]);
        }
        if !list || i == 0 {
            put(run + i as u64 * 8, ptr);
        }
    }
    let vec = RawVec {
        ptr: BASE + run,
        cap: len,
        len,
    };
    // The last block is the root's: it gives way in the vector.
    let root = BASE + start + (count - 1) * 64;
    let last = order
        .iter()
        .position(|&ptr| ptr == root)
        .expect("every block has its place");
    if list {
        return report::<Pointing>(what, count, order[0], &bytes, &blocks);
    }
    let at = (run + last as u64 * 8) as usize;
    bytes.copy_within(
        (run + (count - 1) * 8) as usize..(run + count * 8) as usize,
        at,
    );
    let vec = RawVec {
        len: count - 1,
        ..vec
    };
    let at = home(root) as usize;
    for (i, word) in [vec.ptr, vec.cap, vec.len].into_iter().enumerate() {
        bytes[at + i * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    report::<PVec<PBox<T>>>(what, count, root, &bytes, &blocks);
}

fn report<R: Sample>(what: &str, count: u64, root: u64, bytes: &[u8], blocks: &Superblocks) {
    let schema = schema_of::<R>();
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let mut best = f64::MAX;
        for _ in 0..3 {
            blocks
                .superblocks
                .iter()
                .flatten()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            // The run has no mark of its own: its bit is the first of superblock 0.
            let view = View {
                home_base: BASE,
                other_base: BASE,
                bytes,
            };
            let report = pool.install(|| mark(&schema, root, view, blocks)).unwrap();
            best = best.min(report.took.as_nanos() as f64 / report.blocks as f64);
            assert!(report.blocks >= count);
        }
        eprintln!("{what}, {threads} threads: {best:.1} ns an object");
    }
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let count = 4 << 20;
    for shuffled in [false, true] {
        let order = if shuffled { "shuffled" } else { "in order" };
        measure::<[u64; 8]>(&format!("plain, {order}"), count, shuffled, false);
        measure::<Pointing>(&format!("with a pointer, {order}"), count, shuffled, false);
        measure::<Pointing>(&format!("list, {order}"), count, shuffled, true);
    }
}
