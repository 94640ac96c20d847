//! A node: a member of a cluster that keeps copies of regions, takes over those whose primary is gone, and answers
//! primaries elsewhere.
//!
//! For each region the node *hosts* one task decides what the node is (see `node/host.rs`): a backup, while somebody's lease as the
//! primary runs; a bidder, when nobody's does and the node is in sync; the primary, when its bid was taken. A node may host
//! regions that nobody on it wants to use: it is their *keeper* then, and the primary only until somebody who wants to can be.

mod host;

use crate::cluster::ClusterMap;
use crate::coordinator::Coordinator;
use crate::error::{Error, Result};
use crate::member::Membership;
use crate::metrics;
use crate::records::Policy;
use crate::replica::{Answers, Bounds, Counts, Lag, Primary, Scrubbed, Scrubs, Slot, serve};
use crate::status::{NodeStatus, RegionCounts, RegionStatus, Role};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::wish::Wish;
use bartender_net::Fabric;
use bartender_pm::sync::Mutex;
use bartender_pm::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use bartender_pm::{Position, Region};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How often metrics are set.
const MEASURED: Duration = Duration::from_secs(1);

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    name: String,
    cluster: String,
    ttl: Duration,
    beat: Duration,
    lag: Duration,
    scrub: (Option<Duration>, u64),
    keep_all: bool,
}

impl NodeOptions {
    /// A node called `name`, as in its certificate, of the cluster `cluster`.
    pub fn new(name: &str, cluster: &str) -> NodeOptions {
        NodeOptions {
            name: name.into(),
            cluster: cluster.into(),
            ttl: Duration::from_secs(3),
            beat: Duration::from_millis(20),
            lag: Duration::from_secs(5),
            scrub: (Some(Duration::from_secs(86_400)), 16 << 20),
            keep_all: false,
        }
    }

    /// How long a lease lasts after each beat: a primary that dies is missed for so long. Default 3 seconds.
    pub fn lease(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How often backups are told what is committed, and asked how far they are. Default 20 ms.
    pub fn beat(mut self, beat: Duration) -> Self {
        self.beat = beat;
        self
    }

    /// For how long a backup may be behind before [`Policy::Degrade`] drops it. Default 5 seconds.
    pub fn lag(mut self, lag: Duration) -> Self {
        self.lag = lag;
        self
    }

    /// How often this node, where it is primary, compares all copies of a region and repairs what is damaged; `None`: only when it is
    /// [told to](Serving::scrub). The first time after a tenth of that. Default a day.
    pub fn scrub_every(mut self, every: Option<Duration>) -> Self {
        self.scrub.0 = every;
        self
    }

    /// Bytes of home that are compared in a second at most, then; each copy is read so fast. Default 16 MiB.
    pub fn scrub_pace(mut self, bytes_per_second: u64) -> Self {
        self.scrub.1 = bytes_per_second;
        self
    }

    /// Makes it a *memory node*: it keeps a copy of every region of the cluster whose record names it.
    pub fn keep_all(mut self) -> Self {
        self.keep_all = true;
        self
    }
}

/// How a region is made that the cluster does not have yet.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// All members that are to have a copy.
    pub replicas: Vec<String>,
    /// What to do about slow backups.
    pub policy: Policy,
}

/// A node that runs. Dropping it ends its tasks; the regions that it serves are fenced then.
pub struct Node {
    shared: Arc<Shared>,
    address: String,
}

struct Shared {
    options: NodeOptions,
    members: Arc<Membership>,
    fabric: Arc<dyn Fabric>,
    store: Arc<dyn Store>,
    tasks: Tasks,
    hosted: Mutex<BTreeMap<String, Arc<Hosted>>>,
    /// Peers that were refused.
    refused: AtomicU64,
}

/// One region on this node.
struct Hosted {
    name: String,
    slot: Arc<Slot>,
    wanted: Mutex<Option<Wanted>>,
    primary: Mutex<Option<Arc<Primary>>>,
    wish: Arc<Wish>,
    offer: Mutex<Offer>,
    /// What reigns that are over have counted.
    counts: Mutex<RegionCounts>,
    /// Whether this node's copy was in sync by the record that was seen last.
    in_sync: AtomicBool,
    /// Why its copy does not open, as it was said last.
    told: Mutex<String>,
}

/// What whoever waits for a region may have.
#[derive(Default)]
enum Offer {
    /// Nothing: this node is not its primary.
    #[default]
    Nothing,
    /// This reign.
    Reign(Region, Arc<Primary>),
    /// Somebody has it.
    Taken,
    /// There will be none any more.
    Left,
}

/// A region whose primary this node is: it may be read and committed to until it is fenced. Whoever has it drops it then.
#[derive(Debug)]
pub struct Serving {
    region: Region,
    primary: Arc<Primary>,
}

impl Serving {
    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The epoch in which this node is its primary.
    pub fn epoch(&self) -> u64 {
        self.primary.epoch
    }

    /// Ready when it is over: another node is primary, or may be.
    pub async fn over(&self) {
        self.primary.over().await;
    }

    /// Makes what was appended durable on all replicas, without blocking a thread. May be cancelled: it goes on then, for others who wait.
    ///
    /// # Errors
    ///
    /// The region's; `Fenced`.
    pub async fn flush(&self) -> Result<()> {
        Ok(self.primary.flush_apart(&self.region).await?)
    }

    /// How far the backups are.
    pub fn lags(&self) -> Vec<Lag> {
        self.primary.lags()
    }

    /// Compares the homes of all copies in sync now, as fast as it goes, and repairs pages that a majority holds otherwise. What the
    /// nodes do [now and then](NodeOptions::scrub_every) by themselves. May be cancelled: it goes on then.
    ///
    /// # Errors
    ///
    /// `Fenced`; the region's. What is damaged is in the report.
    pub async fn scrub(&self) -> Result<Scrubbed> {
        self.primary
            .scrub_apart(&self.region, 0..u64::MAX, None)
            .await
    }

    /// Makes all other copies in sync, this machine's as well, what `member` has in `range` of the home: for pages of which
    /// [`scrub`](Self::scrub) could not say who is right. Transactions since stay. May be cancelled: it goes on then.
    ///
    /// # Errors
    ///
    /// `Fenced`; the region's.
    pub async fn repair_from(&self, member: &str, range: Range<u64>) -> Result<Scrubbed> {
        let member = Some(member.to_owned());
        self.primary.scrub_apart(&self.region, range, member).await
    }

    /// What all comparisons of copies have found since this node is primary.
    pub fn scrubs(&self) -> Scrubs {
        self.primary.scrubs()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.primary.stop();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.shared.options.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whoever waits for a commit has to know, and who waits for a turn that there will be none. First it is said that
        // reigns are over: a task that ends while it ships says that of its batch.
        let hosted = std::mem::take(&mut *self.shared.hosted.lock());
        for hosted in hosted.values() {
            if let Some(primary) = &*hosted.primary.lock() {
                primary.stop();
            }
        }
        self.shared.tasks.end();
        for hosted in hosted.values() {
            let offered = std::mem::replace(&mut *hosted.offer.lock(), Offer::Left);
            drop(offered);
            hosted.wish.changed.raise();
            // Whoever still waits for its turn does not keep the copy from who opens it next.
            hosted.slot.let_go();
        }
    }
}

/// A region as a node waits for it.
pub struct Hosting {
    hosted: Arc<Hosted>,
}

impl fmt::Debug for Hosting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hosting").field(&self.hosted.name).finish()
    }
}

impl Hosting {
    /// Waits until this node is the region's primary. Call it again when that is [over](Serving::over) and the
    /// [`Serving`] is dropped. While nobody waits, and nobody has what was waited for, this node is the region's keeper only.
    ///
    /// # Errors
    ///
    /// `Left`.
    pub async fn serve(&mut self) -> Result<Serving> {
        let hosted = &self.hosted;
        let mut changed = hosted.wish.changed.listen();
        let _waiting = hosted.wish.wait();
        loop {
            if let Some(served) = hosted.take() {
                return served;
            }
            changed.changed().await;
        }
    }
}

impl Hosted {
    /// The reign that is offered, which is the caller's from now on.
    fn take(&self) -> Option<Result<Serving>> {
        let mut offer = self.offer.lock();
        match std::mem::take(&mut *offer) {
            Offer::Reign(region, primary) => {
                *offer = Offer::Taken;
                Some(Ok(Serving { region, primary }))
            }
            Offer::Left => {
                *offer = Offer::Left;
                Some(Err(Error::Left))
            }
            other => {
                *offer = other;
                None
            }
        }
    }

    fn offer(&self, region: &Region, primary: &Arc<Primary>) {
        let mut offer = self.offer.lock();
        if !matches!(*offer, Offer::Left) {
            *offer = Offer::Reign(region.clone(), primary.clone());
        }
        drop(offer);
        self.wish.changed.raise();
    }

    fn is_taken(&self) -> bool {
        matches!(*self.offer.lock(), Offer::Taken)
    }

    /// Nobody may take it any more; whether nobody has.
    fn retract(&self) -> bool {
        let mut offer = self.offer.lock();
        if matches!(*offer, Offer::Reign(..)) {
            *offer = Offer::Nothing;
        }
        !matches!(*offer, Offer::Taken)
    }

    /// Its copy does not open, which is said once.
    fn not_open(&self, node: &str, error: &Error) {
        let region = &self.name;
        if matches!(error, Error::Region(bartender_pm::Error::Busy { .. })) {
            // Whoever had it as the primary may still hold it.
            return tracing::debug!(node, region, %error, "not open");
        }
        let (mut told, text) = (self.told.lock(), error.to_string());
        if *told != text {
            tracing::error!(node, region, %error, "this node's copy does not open");
            *told = text;
        }
    }

    /// That reign's primary is no more.
    fn ended(&self, primary: &Primary) {
        let mut now = self.primary.lock();
        *now = None;
        self.counts.lock().add(primary.counts());
    }

    /// That reign is over, whoever had it.
    fn no_offer(&self) {
        let mut offer = self.offer.lock();
        if !matches!(*offer, Offer::Left) {
            *offer = Offer::Nothing;
        }
    }
}

impl Node {
    /// Starts a node that listens at `address` of its fabric.
    ///
    /// # Errors
    ///
    /// It cannot listen there; a name that cannot be.
    pub async fn start(
        options: NodeOptions,
        address: &str,
        fabric: Arc<dyn Fabric>,
        coordinator: Arc<dyn Coordinator>,
        store: Arc<dyn Store>,
    ) -> Result<Node> {
        let map = ClusterMap::new(coordinator, &options.cluster)?;
        let listener = fabric.listen(address).await?;
        let address = listener.address();
        let tasks = Tasks::default();
        let members = Membership::start(map, &options.name, address.clone(), options.ttl, &tasks);
        let shared = Arc::new(Shared {
            options,
            members,
            fabric,
            store,
            tasks,
            hosted: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        let server = shared.clone();
        shared.tasks.spawn(async move {
            while let Ok(connection) = listener.accept().await {
                let (fabric, node) = (server.fabric.clone(), server.clone());
                server.tasks.spawn(serve(connection, fabric, node));
            }
        });
        let measured = shared.clone();
        shared.tasks.spawn(async move { measured.measure().await });
        if shared.options.keep_all {
            let keeper = shared.clone();
            shared.tasks.spawn(async move { keeper.keep_all().await });
        }
        Ok(Node { shared, address })
    }

    /// What it is for which region, and what it has counted.
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// Leaves the cluster: it acts for no region any more, and its lease ends at once, so that nobody waits for it. What
    /// reigned here and was not [flushed](Serving::flush) is as after a crash.
    pub async fn leave(self) {
        let shared = self.shared.clone();
        let life = shared.members.alive();
        // Stops everything: from here on nothing acts for the lease.
        drop(self);
        if let Some(me) = life {
            let revoked = shared.members.map.coordinator().revoke(me.lease);
            if let Err(error) = revoked.await {
                tracing::warn!(%error, "others wait until the lease ends");
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Hosts a region from now on: keeps a copy if the cluster's record says so, and takes over when it can. With
    /// `wanted` it is created when somebody waits for it and the cluster has no such region.
    pub fn host(&self, region: &str, wanted: Option<Wanted>) -> Hosting {
        let hosted = self.shared.hosted(region);
        if wanted.is_some() {
            *hosted.wanted.lock() = wanted;
            hosted.wish.changed.raise();
        }
        Hosting { hosted }
    }

    /// How far the backups of a region are, if this node is its primary.
    pub fn lags(&self, region: &str) -> Option<Vec<Lag>> {
        let hosted = self.shared.hosted.lock().get(region).cloned()?;
        let primary = hosted.primary.lock().clone()?;
        Some(primary.lags())
    }

    /// What comparing the copies of a region has found, if this node is its primary.
    pub fn scrubs(&self, region: &str) -> Option<Scrubs> {
        let hosted = self.shared.hosted.lock().get(region).cloned()?;
        let primary = hosted.primary.lock().clone()?;
        Some(primary.scrubs())
    }

    /// How far this node's copy of a region is, while it follows.
    pub fn position(&self, region: &str) -> Option<Position> {
        self.shared.slot(region)?.position()
    }

    /// Takes this node's copy home, as far as it is committed, and gives a picture of it, while it follows.
    #[doc(hidden)]
    pub fn home(&self, region: &str) -> Option<Arc<bartender_pm::Frozen>> {
        self.shared.slot(region)?.home()
    }

    /// Its tasks go on no more before [`resume`](Self::resume): what a machine does that does not get its processor.
    #[doc(hidden)]
    pub fn hold(&self) {
        self.shared.tasks.hold();
    }

    /// They go on.
    #[doc(hidden)]
    pub fn resume(&self) {
        self.shared.tasks.resume();
    }
}

impl Shared {
    fn slot(&self, region: &str) -> Option<Arc<Slot>> {
        let hosted = self.hosted.lock();
        hosted.get(region).map(|hosted| hosted.slot.clone())
    }

    /// Whether this node's copy of a region has to count, as far as it knows.
    fn counts(&self, region: &str) -> Counts {
        let (members, region) = (self.members.clone(), region.to_owned());
        let me = self.options.name.clone();
        Box::new(move |epoch| {
            let picture = members.picture();
            picture
                .regions
                .get(&region)
                .is_none_or(|seen| seen.record.epoch != epoch || seen.record.in_sync.contains(&me))
        })
    }

    /// What this node has of a region, from now on.
    fn hosted(self: &Arc<Self>, region: &str) -> Arc<Hosted> {
        let mut all = self.hosted.lock();
        if let Some(hosted) = all.get(region) {
            return hosted.clone();
        }
        let wish = Arc::new(Wish::default());
        let (store, tasks) = (self.store.clone(), self.tasks.clone());
        let hosted = Arc::new(Hosted {
            name: region.to_owned(),
            slot: Slot::new(region, store, self.counts(region), tasks, wish.clone()),
            wanted: Mutex::default(),
            primary: Mutex::default(),
            wish,
            offer: Mutex::default(),
            counts: Mutex::default(),
            in_sync: AtomicBool::new(false),
            told: Mutex::default(),
        });
        all.insert(region.to_owned(), hosted.clone());
        drop(all);
        let (host, task) = (self.clone(), hosted.clone());
        self.tasks.spawn(async move { host.host(task).await });
        hosted
    }

    /// Hosts what the records say that it has a copy of.
    async fn keep_all(self: Arc<Self>) {
        loop {
            let picture = self.members.picture();
            for (region, seen) in &picture.regions {
                if seen.record.replicas.contains(&self.options.name) {
                    self.hosted(region);
                }
            }
            self.members.changes(self.options.ttl).await;
        }
    }

    /// Keeps the metrics true.
    async fn measure(self: Arc<Self>) {
        let mut before = BTreeSet::new();
        loop {
            metrics::publish(&self.status(), &mut before);
            tokio::time::sleep(MEASURED).await;
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            beat: self.options.beat,
            patience: self.options.ttl,
            lag: self.options.lag,
        }
    }
}

impl Hosted {
    fn status(&self) -> RegionStatus {
        let mut status = RegionStatus {
            region: self.name.clone(),
            taker: self.wish.is_there(),
            counts: *self.counts.lock(),
            ..RegionStatus::default()
        };
        let primary = self.primary.lock().clone();
        if let Some(primary) = primary {
            status.role = match self.is_taken() {
                true => Role::Primary,
                false => Role::Keeper,
            };
            status.epoch = primary.epoch;
            (status.durable, status.committed) = primary.written();
            status.counts.add(primary.counts());
            status.backups = primary.backups();
        } else if let Some(position) = self.slot.position() {
            status.role = Role::Backup;
            status.epoch = position.epoch;
            status.committed = position.committed;
            status.durable = position.tail;
        }
        status
    }
}

impl Answers for Shared {
    fn find(&self, region: &str) -> Option<Arc<Slot>> {
        self.slot(region)
    }

    fn status(&self) -> NodeStatus {
        let hosted: Vec<Arc<Hosted>> = self.hosted.lock().values().cloned().collect();
        NodeStatus {
            node: self.options.name.clone(),
            incarnation: self.members.alive().map(|me| me.incarnation),
            beats_lost: self.members.beats_lost(),
            refused: self.refused.load(Ordering::Relaxed),
            regions: hosted.iter().map(|hosted| hosted.status()).collect(),
        }
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}
