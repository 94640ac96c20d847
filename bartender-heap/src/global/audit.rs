//! For tests: whether the global heap's lists are what its superblocks say.

use super::Global;
use crate::map::Map;
use crate::superblock::{Place, Ref};

impl Global {
    /// How many superblocks it has, each of which is in one place, where it belongs.
    pub(crate) fn audit(&self, map: &Map) -> usize {
        let small = map.all().filter(|one| !one.is_large());
        let ours: Vec<Ref> = small.filter(|one| self.owns(*one)).collect();
        let at = |place| ours.iter().filter(|one| one.place() == place).count();
        for (class, list) in self.partial.iter().enumerate() {
            assert!(list.iter().all(|one| one.class() == class));
        }
        let in_lists = self.partial.iter().flat_map(|list| list.iter());
        assert_eq!(at(Place::Partial), in_lists.count());
        assert_eq!(at(Place::Empty), self.empty.len());
        for one in &ours {
            // SAFETY: ours, under the lock.
            let used = unsafe { one.used() };
            assert_eq!(u64::from(used), u64::from(one.live()) + one.waiting());
            match one.place() {
                Place::Partial => assert!(used > 0 && used < one.blocks()),
                Place::Empty => assert_eq!(used, 0),
                Place::Nowhere => assert_eq!(used, one.blocks()),
                place => panic!("the global heap has nothing that is {place:?}"),
            }
        }
        ours.len()
    }
}
