//! A node: a member of a cluster that keeps copies of regions, takes over those whose primary is gone, and answers
//! primaries elsewhere.
//!
//! For each region the node *hosts* one task decides what the node is: a backup, while somebody's lease as the primary runs; a bidder, when
//! nobody's does and the node is in sync; the primary, when its bid was taken. The most advanced of
//! the backups that answer bids first. What a bid needs is the coordinator's: that the old lease is over (so its
//! holder has stopped reading), and that the record did not change.

use crate::cluster::{ClusterMap, Identity, NewRegion, Refusal, Verdict};
use crate::coordinator::Coordinator;
use crate::error::{Error, Result};
use crate::member::Membership;
use crate::records::{Policy, RegionId, RegionRecord, Seen};
use crate::replica::{
    Answer, Ask, Bounds, Counts, Lag, Primary, Scrubbed, Scrubs, Slot, Trust, serve,
};
use crate::store::Store;
use crate::tasks::{Tasks, blocking};
use bartender_net::{Fabric, Received};
use bartender_pm::sync::Mutex;
use bartender_pm::{Position, Region};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    name: String,
    cluster: String,
    ttl: Duration,
    beat: Duration,
    lag: Duration,
    scrub: (Option<Duration>, u64),
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
}

/// One region on this node.
struct Hosted {
    name: String,
    slot: Arc<Slot>,
    wanted: Option<Wanted>,
    primary: Mutex<Option<Arc<Primary>>>,
    served: mpsc::Sender<Serving>,
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

    /// Makes what was appended durable on all replicas, without blocking a thread. It is not to be cancelled: if it led a
    /// batch, whether that is durable is unknown then, and this reign is over.
    ///
    /// # Errors
    ///
    /// The region's; `Fenced`.
    pub async fn flush(&self) -> Result<()> {
        Ok(self.primary.flush(&self.region).await?)
    }

    /// How far the backups are.
    pub fn lags(&self) -> Vec<Lag> {
        self.primary.lags()
    }

    /// Compares the homes of all copies in sync now, as fast as it goes, and repairs pages that a majority holds otherwise. What the
    /// nodes do [now and then](NodeOptions::scrub_every) by themselves. May be cancelled.
    ///
    /// # Errors
    ///
    /// `Fenced`; the region's. What is damaged is in the report.
    pub async fn scrub(&self) -> Result<Scrubbed> {
        let all = 0..u64::MAX;
        self.primary
            .scrub(&self.region, all, None, Trust::Majority)
            .await
    }

    /// Makes all other copies in sync, this machine's as well, what `member` has in `range` of the home: for pages of which
    /// [`scrub`](Self::scrub) could not say who is right. Transactions since stay. May be cancelled.
    ///
    /// # Errors
    ///
    /// `Fenced`; the region's.
    pub async fn repair_from(&self, member: &str, range: Range<u64>) -> Result<Scrubbed> {
        let trust = Trust::Member(member);
        self.primary.scrub(&self.region, range, None, trust).await
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
        self.shared.tasks.end();
        // Whoever waits for a commit has to know, and who waits for a turn that there will be none.
        let hosted = std::mem::take(&mut *self.shared.hosted.lock());
        for hosted in hosted.values() {
            if let Some(primary) = &*hosted.primary.lock() {
                primary.stop();
            }
        }
    }
}

/// A region as a node waits for it.
#[derive(Debug)]
pub struct Hosting {
    served: mpsc::Receiver<Serving>,
}

impl Hosting {
    /// Waits until this node is the region's primary. Call it again when that is [over](Serving::over) and the
    /// [`Serving`] is dropped.
    ///
    /// # Errors
    ///
    /// `Left`.
    pub async fn serve(&mut self) -> Result<Serving> {
        self.served.recv().await.ok_or(Error::Left)
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
        });
        let server = shared.clone();
        shared.tasks.spawn(async move {
            while let Ok(connection) = listener.accept().await {
                let (fabric, finder) = (server.fabric.clone(), server.clone());
                let find = move |name: &str| finder.slot(name);
                server.tasks.spawn(serve(connection, fabric, find));
            }
        });
        Ok(Node { shared, address })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Hosts a region from now on: keeps a copy if the cluster's record says so, and takes over when it can. With
    /// `wanted` it is created if the cluster has no such region.
    pub fn host(&self, region: &str, wanted: Option<Wanted>) -> Hosting {
        let shared = self.shared.clone();
        let (served, receiver) = mpsc::channel(1);
        let hosted = Arc::new(Hosted {
            name: region.to_owned(),
            slot: Slot::new(
                region,
                shared.store.clone(),
                shared.counts(region),
                shared.tasks.clone(),
            ),
            wanted,
            primary: Mutex::default(),
            served,
        });
        let mut all = shared.hosted.lock();
        all.insert(region.to_owned(), hosted.clone());
        drop(all);
        let host = shared.clone();
        shared.tasks.spawn(async move { host.host(hosted).await });
        Hosting { served: receiver }
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

    fn bounds(&self) -> Bounds {
        Bounds {
            beat: self.options.beat,
            patience: self.options.ttl,
            lag: self.options.lag,
        }
    }

    /// Decides what this node is for one region, for ever.
    async fn host(self: Arc<Self>, hosted: Arc<Hosted>) {
        loop {
            match self.turn(&hosted).await {
                Ok(()) => {}
                Err(error) => {
                    let region = &hosted.name;
                    tracing::warn!(node = self.options.name, region, %error, "hosting");
                    tokio::time::sleep(self.options.beat).await;
                }
            }
        }
    }

    /// Looks once, and acts or waits for a change.
    async fn turn(&self, hosted: &Arc<Hosted>) -> Result<()> {
        let name = &hosted.name;
        let picture = self.members.picture();
        let (Some(me), true) = (self.members.alive(), picture.revision != 0) else {
            self.members.changes(self.options.ttl).await;
            return Ok(());
        };
        let Some(seen) = picture.regions.get(name) else {
            return match &hosted.wanted {
                Some(wanted) => self.create(hosted, wanted, me).await,
                None => {
                    self.members.changes(self.options.ttl).await;
                    Ok(())
                }
            };
        };
        let reigns = picture.primaries.get(name);
        if let Some(reign) = reigns
            && (&reign.record.member, reign.record.incarnation) == (&me.name, me.incarnation)
        {
            // A bid whose answer was lost: nobody acts on it.
            let map = &self.members.map;
            map.abdicate(name, &me, reign.record.epoch).await?;
            tokio::time::sleep(self.options.beat).await;
            return Ok(());
        }
        if let Err(error) = blocking(|| hosted.slot.open()) {
            // Whoever had it as the primary may still hold it.
            tracing::debug!(node = self.options.name, region = name, %error, "not open");
            tokio::time::sleep(self.options.beat).await;
            return Ok(());
        }
        let mine_of_before = reigns.is_some_and(|reign| {
            reign.record.member == me.name && reign.record.incarnation < me.incarnation
        });
        let in_sync = seen.record.in_sync.contains(&me.name);
        if !in_sync || hosted.slot.position().is_none() || reigns.is_some() && !mine_of_before {
            self.members.changes(self.options.ttl).await;
            return Ok(());
        }
        self.bid(hosted, seen, me).await
    }

    /// A region that the cluster does not have: made here, then recorded.
    async fn create(&self, hosted: &Arc<Hosted>, wanted: &Wanted, me: Identity) -> Result<()> {
        let name = &hosted.name;
        if let Err(error) = blocking(|| hosted.slot.open()) {
            tracing::debug!(node = self.options.name, region = name, %error, "not open");
            tokio::time::sleep(self.options.beat).await;
            return Ok(());
        }
        // The copy first: a record without one would be of a region that is lost.
        let uuid = match hosted.slot.position() {
            None => blocking(|| self.store.create(name))?,
            Some(position) if position.is_blank() => position.uuid,
            Some(_) => {
                return Err(Error::Unavailable {
                    region: format!(
                        "{name} (a copy is here, and the cluster knows no such region)"
                    ),
                    alive: 1,
                    wanted: wanted.replicas.len(),
                });
            }
        };
        let new = NewRegion {
            uuid: RegionId(uuid),
            replicas: wanted.replicas.clone(),
            in_sync: vec![me.name.clone()],
            policy: wanted.policy,
        };
        match self.members.map.create_region(name, new, &me).await? {
            Verdict::Done(seen) => self.reign(hosted, seen, me).await,
            Verdict::Refused(_) => {
                self.members.changes(self.options.beat).await;
                Ok(())
            }
        }
    }

    /// Nobody's lease runs, and this node has everything: it bids, the most advanced first.
    async fn bid(
        &self,
        hosted: &Arc<Hosted>,
        seen: &Seen<RegionRecord>,
        me: Identity,
    ) -> Result<()> {
        let name = &hosted.name;
        let own = hosted.slot.position().map_or(0, |position| position.tail);
        let rank = self.rank(name, &seen.record, own).await;
        if rank > 0 {
            // Those before it first.
            tokio::time::sleep(self.options.beat * 2 * rank).await;
            let now = self.members.picture();
            if now.primaries.contains_key(name) || now.regions.get(name) != Some(seen) {
                return Ok(());
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_millis() as u64);
        match self.members.map.take_over(name, seen, &me, now).await? {
            Verdict::Done(seen) => {
                tracing::warn!(
                    node = self.options.name,
                    region = name,
                    epoch = seen.record.epoch,
                    "primary now"
                );
                self.reign(hosted, seen, me).await
            }
            Verdict::Refused(refusal) => {
                if !matches!(refusal, Refusal::Passing) {
                    self.members.changes(self.options.ttl).await;
                }
                Ok(())
            }
        }
    }

    /// How many backups that are in sync and answer are more advanced.
    async fn rank(&self, name: &str, record: &RegionRecord, own: u64) -> u32 {
        let picture = self.members.picture();
        let me = &self.options.name;
        let mut rank = 0;
        for other in record.in_sync.iter().filter(|other| *other != me) {
            let Some(member) = picture.members.get(other) else {
                continue;
            };
            let asked = timeout(self.options.beat * 2, async {
                let connection = self.fabric.connect(&member.record.address).await?;
                let region = name.to_owned();
                connection.send(Ask::Query { region }.encode()).await?;
                Ok::<_, Error>(connection.recv().await?)
            });
            if let Ok(Ok(Received::Message(message))) = asked.await
                && let Some(Answer::Attached { position, .. }) = Answer::decode(message)
                && (position.tail, me) > (own, other)
            {
                rank += 1;
            }
        }
        rank
    }

    /// This node is the primary: opens the region, brings the replicas in sync to the same log, and lets it be used until
    /// that is over.
    async fn reign(
        &self,
        hosted: &Arc<Hosted>,
        seen: Seen<RegionRecord>,
        me: Identity,
    ) -> Result<()> {
        let epoch = seen.record.epoch;
        let reigned = self.reign_until_over(hosted, seen, me.clone()).await;
        // Its lease may well go on: others need not wait for that.
        while !self.members.is_over(me.incarnation) {
            match self.members.map.abdicate(&hosted.name, &me, epoch).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(region = hosted.name, epoch, %error, "not abdicated");
                    tokio::time::sleep(self.options.beat).await;
                }
            }
        }
        if reigned.is_err() {
            // It cannot be opened here: others first, who may.
            tokio::time::sleep(self.options.ttl).await;
        }
        reigned
    }

    async fn reign_until_over(
        &self,
        hosted: &Arc<Hosted>,
        seen: Seen<RegionRecord>,
        me: Identity,
    ) -> Result<()> {
        let name = &hosted.name;
        let epoch = seen.record.epoch;
        hosted.slot.close().await;
        let primary = Primary::new(
            name,
            seen,
            me,
            self.members.clone(),
            self.fabric.clone(),
            self.tasks.clone(),
            self.bounds(),
        );
        *hosted.primary.lock() = Some(primary.clone());
        let opened = blocking(|| self.store.primary(name, epoch, primary.clone()));
        let region = match opened {
            Ok(region) => region,
            Err(error) => {
                primary.stop();
                *hosted.primary.lock() = None;
                return Err(error);
            }
        };
        primary.start(&region).await;
        let settled = primary.flush(&region).await;
        let served = match settled {
            Ok(()) => {
                if let (Some(every), pace) = self.options.scrub {
                    let (primary, region) = (primary.clone(), region.clone());
                    self.tasks
                        .spawn(async move { primary.scrub_on(&region, every, pace).await });
                }
                let serving = Serving {
                    region,
                    primary: primary.clone(),
                };
                hosted.served.send(serving).await.is_ok()
            }
            Err(error) => {
                tracing::warn!(region = name, epoch, %error, "not served");
                region.fence(epoch);
                false
            }
        };
        if served {
            primary.over().await;
        }
        primary.stop();
        *hosted.primary.lock() = None;
        Ok(())
    }
}
