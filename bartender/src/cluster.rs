//! Heaps that several machines keep: [`Cluster`], a machine's membership, and [`Replicated`], a heap whose primary it is.
//!
//! One program runs on each machine that has a copy. Where the primary is, [`Cluster::open`] returns with the heap; on the others it
//! waits, and returns when that machine has taken over. What is committed is durable on every machine that is in sync before it is answered,
//! at the cost of one round trip. A program whose machine was cut off finds its heap *fenced*: commits and reads fail with
//! [`bartender_pm::Error::Fenced`]. It drops the heap and opens it again.

use crate::error::{Error, Result};
use crate::heap::{Heap, Options};
use crate::persist::Persist;
use bartender_dist::{
    Coordinator, Folder, Hosting, Lag, Node, NodeOptions, Policy, Scrubbed, Scrubs, Serving, Wanted,
};
use bartender_net::tls::Identity;
use bartender_net::{Fabric, TcpFabric, TcpOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

/// What members reach each other over: all of them the same.
#[derive(Debug, Clone)]
enum Wire {
    Tcp,
    #[cfg(all(feature = "rdma", target_os = "linux", target_pointer_width = "64"))]
    Rdma(bartender_net::VerbsOptions),
}

impl Wire {
    /// Attaches to it; without an identity nobody proves anything.
    fn attach(
        self,
        handle: Handle,
        identity: Option<&Identity>,
    ) -> bartender_net::Result<Arc<dyn Fabric>> {
        match self {
            Wire::Tcp => {
                let options = TcpOptions::default();
                Ok(Arc::new(match identity {
                    Some(identity) => TcpFabric::secure(handle, identity, options)?,
                    None => TcpFabric::insecure(handle, options),
                }))
            }
            #[cfg(all(feature = "rdma", target_os = "linux", target_pointer_width = "64"))]
            Wire::Rdma(options) => {
                use bartender_net::VerbsFabric;
                Ok(Arc::new(match identity {
                    Some(identity) => VerbsFabric::secure(handle, identity, options)?,
                    None => VerbsFabric::insecure(handle, options)?,
                }))
            }
        }
    }
}

/// How a machine becomes a member of a cluster.
#[derive(Debug, Clone)]
#[must_use]
pub struct ClusterOptions {
    node: NodeOptions,
    listen: String,
    data: PathBuf,
    identity: Option<Identity>,
    insecure: bool,
    wire: Wire,
    region: bartender_pm::Options,
}

impl ClusterOptions {
    /// Where it listens for other members, as `HOST:PORT`. Others reach it there. Default `127.0.0.1:0`: this machine only.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// The folder in which its copies of regions lie, each a file. Default: the working folder.
    pub fn data(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data = folder.into();
        self
    }

    /// Its certificate, key and authority: members prove to each other who they are. Its name has to be the member's.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Without certificates: whoever reaches the port is believed, and everything can be read on the way. For tests, and networks that are protected
    /// otherwise.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Reaches the other members by RDMA instead of TCP, as they have to as well. [`listen`](Self::listen) says where they find it: at
    /// an ordinary TCP address, whose connections prove who is there and tell where the cards are; the identity is for those, and what
    /// then travels between the cards is not encrypted. Backups receive log in registered memory, as much as the log is long: mind `ulimit -l`.
    #[cfg(all(feature = "rdma", target_os = "linux", target_pointer_width = "64"))]
    pub fn rdma(mut self, options: bartender_net::VerbsOptions) -> Self {
        self.wire = Wire::Rdma(options);
        self
    }

    /// How long a lease lasts: for so long a primary that died is missed. Default 3 seconds.
    pub fn lease(mut self, ttl: Duration) -> Self {
        self.node = self.node.lease(ttl);
        self
    }

    /// How often this machine, where it is primary, compares all copies of a region and repairs what is damaged, and how many bytes a
    /// second are read for that at most on each machine. Default once a day, 16 MiB; `None`: never by itself.
    pub fn scrub(mut self, every: Option<Duration>, bytes_per_second: u64) -> Self {
        let node = self.node.scrub_every(every);
        self.node = node.scrub_pace(bytes_per_second);
        self
    }

    /// Bytes that regions created here may grow to. Default 64 GiB.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.region.max_size(bytes);
        self
    }

    /// Bytes of log of regions created here: bounds a transaction, and how long a backup can be away without being copied anew. Default
    /// 64 MiB.
    pub fn log_size(mut self, bytes: u64) -> Self {
        self.region.log_size(bytes);
        self
    }

    /// Joins the cluster that `coordinator` keeps. `connect` makes the coordinator, on the cluster's own runtime.
    ///
    /// # Errors
    ///
    /// `BadOption` without identity and without [`insecure`](Self::insecure); the network's, which for RDMA says what is missing:
    /// libibverbs, the device, or that its link is down; the coordinator's.
    pub fn join<F>(self, connect: impl FnOnce() -> F) -> Result<Cluster>
    where
        F: Future<Output = bartender_dist::Result<Arc<dyn Coordinator>>>,
    {
        let bad =
            |option, what: String| Error::Region(bartender_pm::Error::BadOption { option, what });
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bartender-net")
            .enable_all()
            .build()
            .map_err(|error| bad("cluster", format!("no threads for it: {error}")))?;
        let handle = runtime.handle().clone();
        if self.identity.is_none() && !self.insecure {
            let what = "none was given; `insecure` goes without".into();
            return Err(bad("identity", what));
        }
        let fabric = self
            .wire
            .attach(handle, self.identity.as_ref())
            .map_err(bartender_dist::Error::from)?;
        let store = Folder::new(self.data, self.region);
        let node = runtime.block_on(async {
            let coordinator = connect().await?;
            Node::start(
                self.node,
                &self.listen,
                fabric,
                coordinator,
                Arc::new(store),
            )
            .await
        })?;
        Ok(Cluster {
            inner: Arc::new(Inner {
                address: node.address().to_owned(),
                node: Mutex::new(Some(Arc::new(node))),
                hosted: Mutex::default(),
                runtime: Some(runtime),
            }),
        })
    }
}

/// This machine as a member of a cluster. Cheap to clone; the last clone to go leaves it.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    node: Mutex<Option<Arc<Node>>>,
    address: String,
    hosted: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Hosting>>>>,
    runtime: Option<Runtime>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.leave();
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped on a thread of another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    fn node(&self) -> Option<Arc<Node>> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        node.clone()
    }

    fn leave(&self) {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        *node = None;
        // With it goes what holds its copies open.
        let mut hosted = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        hosted.clear();
    }
}

impl Cluster {
    /// How the member `name` joins the cluster `cluster`.
    pub fn options(name: &str, cluster: &str) -> ClusterOptions {
        ClusterOptions {
            node: NodeOptions::new(name, cluster),
            listen: "127.0.0.1:0".into(),
            data: PathBuf::from("."),
            identity: None,
            insecure: false,
            wire: Wire::Tcp,
            region: bartender_pm::Options::new(),
        }
    }

    /// Waits until this machine is the primary of a region of the cluster, and opens it as a heap. Meanwhile the machine keeps a copy, if it is to have
    /// one.
    ///
    /// # Errors
    ///
    /// Those of [`Options::open`]. A region that the cluster does not have yet is waited for.
    pub fn open<R: Persist + Default>(&self, region: &str) -> Result<Replicated<R>> {
        Heap::<R>::options().open_in(self, region)
    }

    /// Where this machine listens.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// How far the backups of a region are, if this machine is its primary.
    pub fn lags(&self, region: &str) -> Option<Vec<Lag>> {
        self.inner.node()?.lags(region)
    }

    /// Takes this machine's copy of a region home, as far as it is committed, and gives a picture of that, while it follows.
    #[doc(hidden)]
    pub fn home(&self, region: &str) -> Option<Arc<bartender_pm::Frozen>> {
        self.inner.node()?.home(region)
    }

    /// Leaves the cluster: heaps that are open are fenced, who waits for one gets [`bartender_dist::Error::Left`]. Close heaps first, so
    /// that what they hold is sent.
    pub fn leave(&self) {
        self.inner.leave();
    }

    fn runtime(&self) -> &Runtime {
        self.inner.runtime.as_ref().expect("only dropping takes it")
    }

    fn hosting(
        &self,
        region: &str,
        wanted: Option<Wanted>,
    ) -> Result<(Arc<tokio::sync::Mutex<Hosting>>, tokio::runtime::Handle)> {
        let node = self.inner.node().ok_or(bartender_dist::Error::Left)?;
        let runtime = self.runtime();
        let mut hosted = self
            .inner
            .hosted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _inside = runtime.enter();
        // Also where somebody waits for it already, who did not say how it is made.
        let hosting = node.host(region, wanted);
        let hosting = hosted
            .entry(region.to_owned())
            .or_insert_with(|| Arc::new(tokio::sync::Mutex::new(hosting)));
        Ok((hosting.clone(), runtime.handle().clone()))
    }
}

/// A heap whose primary this machine is. It is a [`Heap`]; dropping it closes it, and lets another machine take over.
#[derive(Debug)]
pub struct Replicated<R: Persist> {
    // In this order: what is not on all replicas yet is sent before the reign ends.
    heap: Heap<R>,
    serving: Serving,
    cluster: Cluster,
}

impl<R: Persist> Replicated<R> {
    /// The epoch in which this machine is the primary.
    pub fn epoch(&self) -> u64 {
        self.serving.epoch()
    }

    /// How far the backups are.
    pub fn lags(&self) -> Vec<Lag> {
        self.serving.lags()
    }

    /// Compares the copies of all machines in sync now, and repairs pages that a majority holds otherwise. Blocks until the whole region
    /// was read everywhere.
    ///
    /// # Errors
    ///
    /// `Fenced`; the region's. What is damaged is in the report.
    pub fn scrub(&self) -> Result<Scrubbed> {
        Ok(self.cluster.runtime().block_on(self.serving.scrub())?)
    }

    /// Makes the copies of all machines in sync what `member` has in `range`, bytes from the region's home address on: for pages of
    /// which [`scrub`](Self::scrub) could not say who is right.
    ///
    /// # Errors
    ///
    /// As [`scrub`](Self::scrub).
    pub fn repair_from(&self, member: &str, range: Range<u64>) -> Result<Scrubbed> {
        let repaired = self.serving.repair_from(member, range);
        Ok(self.cluster.runtime().block_on(repaired)?)
    }

    /// What comparing copies has found since this machine is the primary.
    pub fn scrubs(&self) -> Scrubs {
        self.serving.scrubs()
    }

    /// Whether it is over: another machine is the primary, or may be.
    pub fn is_fenced(&self) -> bool {
        self.serving.region().check_current().is_err()
    }
}

impl<R: Persist> Deref for Replicated<R> {
    type Target = Heap<R>;

    fn deref(&self) -> &Heap<R> {
        &self.heap
    }
}

impl<R: Persist> Options<R> {
    /// The members of a cluster that are to have a copy, this machine included, when the region is created by
    /// [`open_in`](Self::open_in).
    pub fn replicas<S: Into<String>>(mut self, members: impl IntoIterator<Item = S>) -> Self {
        self.replicas = Some(members.into_iter().map(Into::into).collect());
        self
    }

    /// What happens when a backup does not answer, in a region created by [`open_in`](Self::open_in). Default: commits wait until the coordinator
    /// has removed it.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Waits until this machine is the primary of a region of the cluster, and opens it. With [`replicas`](Self::replicas) it is created where the cluster
    /// has none of that name. Its sizes are those of [`ClusterOptions`].
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_in(self, cluster: &Cluster, region: &str) -> Result<Replicated<R>>
    where
        R: Default,
    {
        let wanted = self.replicas.clone().map(|replicas| Wanted {
            replicas,
            policy: self.policy,
        });
        let (hosting, runtime) = cluster.hosting(region, wanted)?;
        loop {
            let served = runtime.block_on(async { hosting.lock().await.serve().await })?;
            let opened = self
                .clone()
                .open_region(served.region().clone(), R::default);
            match opened {
                Ok(heap) => {
                    return Ok(Replicated {
                        heap,
                        serving: served,
                        cluster: cluster.clone(),
                    });
                }
                // It was over before it began.
                Err(Error::Region(bartender_pm::Error::Fenced { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
