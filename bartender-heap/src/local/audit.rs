//! For tests: whether a thread heap's lists and counts are what its superblocks say.

use super::{DIRECT, Local};
use crate::class;
use crate::superblock::{Place, Ref};

impl Local {
    /// How many superblocks it has, each of which is in one place and counted as
    /// it should be.
    ///
    /// # Safety
    /// Only by the thread that holds this heap.
    pub(crate) unsafe fn audit(&self) -> usize {
        let mut count = 0;
        self.bins.with(|bins| {
            // SAFETY: the heap's thread, and what is in its lists is its own.
            for (class, bin) in unsafe { &*bins }.iter().enumerate() {
                let (mut used, mut capacity) = (0, 0);
                let mut see = |one: Ref, place| {
                    assert!(self.owns(one) && one.is_alive() && one.class() == class);
                    assert_eq!(one.place(), place);
                    used += one.counted();
                    capacity += i64::from(one.blocks());
                    count += 1;
                    if place != Place::Current {
                        // SAFETY: as above.
                        let used = unsafe { one.used() };
                        assert_eq!(u64::from(used), u64::from(one.live()) + one.waiting());
                        assert!(place == Place::Full || used < one.blocks());
                    }
                };
                bin.current.iter().for_each(|one| see(*one, Place::Current));
                bin.partial.iter().for_each(|one| see(one, Place::Partial));
                bin.full.iter().for_each(|one| see(one, Place::Full));
                assert_eq!((bin.used, bin.capacity), (used, capacity));
            }
        });
        self.leaving.with(|leaving| {
            // SAFETY: the heap's thread.
            for one in unsafe { &*leaving }.audit() {
                assert!(self.owns(*one) && one.is_alive());
                assert_eq!((one.place(), one.live()), (Place::Leaving, 0));
                count += 1;
            }
        });
        self.audit_ready();
        count
    }

    /// What is ready is what its class hands out from, in all tables.
    fn audit_ready(&self) {
        for class in 0..class::CLASSES {
            // SAFETY: as the caller's caller says.
            let ready = unsafe { self.ready(class) };
            if ready != self.nothing {
                assert!(self.owns(ready) && ready.class() == class && ready.is_durable());
                assert_eq!(ready.place(), Place::Current);
            }
        }
        for words in 0..=DIRECT {
            let (size, c_align) = ((words * 8).max(1), if words > 1 { 16 } else { 8 });
            // SAFETY: as above.
            let there = unsafe { [self.direct(words), self.direct_c(words)] };
            let expected = [8, c_align].map(|align| {
                let class = class::of(size, align).expect("a class");
                // SAFETY: as above.
                unsafe { self.ready(class) }
            });
            assert!(there[1] == expected[1] && (words == 0 || there[0] == expected[0]));
        }
    }
}
