//! The coordinator of a real cluster: etcd, which goes on while a majority of its machines does.
//!
//! Its revisions, leases and transactions are the trait's, one to one; a transaction's comparisons are on `mod_revision`,
//! `version` and `value`. Reads are linearizable (etcd's default). An isolated etcd leader may still take beats for an
//! election timeout; the next leader then gives every lease its whole ttl and that timeout, so none ends early.
//!
//! Connections are made when they are needed, and anew when they broke. What was sent and not answered is never
//! repeated, except by a watch, which goes on after the last revision that it gave. Every call has a limit of time.

use super::{
    Change, Compare, Coordinator, Entry, Lease, LeaseId, Snapshot, Transacted, Watch,
    check_request, check_ttl,
};
use crate::error::{Error, Result};
use bartender_net::Boxed;
use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, GetOptions, Identity,
    KvClient, PutOptions, TlsOptions, Txn, TxnOp,
};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::time::Duration;

mod watch;

use watch::Watcher;

/// How etcd is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    endpoints: Vec<String>,
    user: Option<(String, String)>,
    authority: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    host: Option<String>,
    limit: Duration,
}

impl EtcdOptions {
    /// At these addresses: `http://HOST:PORT`, or `https://HOST:PORT` for TLS.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> EtcdOptions {
        EtcdOptions {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            authority: None,
            identity: None,
            host: None,
            limit: Duration::from_secs(5),
        }
    }

    /// A user of etcd's own.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Who signed the servers' certificates: PEM.
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Our own certificate and its key, for servers that want one: PEM.
    pub fn identity(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((pem.into(), key.into()));
        self
    }

    /// The name that the servers' certificates have. Default: the address's.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.host = Some(name.into());
        self
    }

    /// How long a call may take. Default 5 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn connect_options(&self) -> ConnectOptions {
        // Oftener than every five seconds etcd takes for an attack.
        let mut options = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(10), self.limit)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(self.limit)
            .with_require_leader(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if self.authority.is_some() || self.identity.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(pem) = &self.authority {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            if let Some((pem, key)) = &self.identity {
                tls = tls.identity(Identity::from_pem(pem, key));
            }
            if let Some(name) = &self.host {
                tls = tls.domain_name(name);
            }
            options = options.with_tls(tls);
        }
        options
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Answers of etcd are at most so long: all records of a cluster.
const MAX_ANSWER: usize = 256 << 20;

/// An etcd cluster. Cheap to clone.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    reach: Reach,
}

/// How long calls take, and what errors say.
#[derive(Clone)]
struct Reach {
    endpoints: String,
    limit: Duration,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.reach.endpoints).finish()
    }
}

impl Reach {
    fn failed(&self, what: impl fmt::Display) -> Error {
        Error::Coordinator {
            endpoints: self.endpoints.clone(),
            what: what.to_string(),
        }
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<Result<T, etcd_client::Error>> {
        match tokio::time::timeout(self.limit, call).await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.failed(format!("no answer within {:?}", self.limit))),
        }
    }

    /// The answer, where none of etcd's refusals is expected.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T> {
        self.within(call).await?.map_err(|e| self.failed(e))
    }
}

/// Whether etcd said that there is no such lease.
fn is_lease_over(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            status.message().contains("requested lease not found")
        }
        etcd_client::Error::LeaseKeepAliveError(what) => what.contains("lease not found"),
        _ => false,
    }
}

fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn etcd_number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

impl Etcd {
    /// Reaches etcd, and asks it one thing.
    ///
    /// # Errors
    ///
    /// [`Error::Coordinator`] if it does not answer within the limit.
    pub async fn connect(options: &EtcdOptions) -> Result<Etcd> {
        let reach = Reach {
            endpoints: options.endpoints.join(","),
            limit: options.limit,
        };
        let connect = Client::connect(&options.endpoints, Some(options.connect_options()));
        let client = reach.ask(connect).await?;
        let etcd = Etcd { client, reach };
        // Connecting is lazy: a wrong address is better told now.
        etcd.read("bartender/").await?;
        Ok(etcd)
    }

    fn kv(&self) -> KvClient {
        let kv = self.client.kv_client();
        kv.max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_ANSWER)
    }
}

fn to_compare(compare: Compare, to: &mut Vec<EtcdCompare>) {
    match compare {
        Compare::Absent(key) => to.push(EtcdCompare::version(key, CompareOp::Equal, 0)),
        Compare::Value(key, value) => {
            to.push(EtcdCompare::value(key, CompareOp::Equal, value));
        }
        Compare::Revision(key, revision) => {
            // A key that is not there has revision 0 to etcd.
            to.push(EtcdCompare::version(key.as_bytes(), CompareOp::Greater, 0));
            let revision = etcd_number(revision);
            to.push(EtcdCompare::mod_revision(key, CompareOp::Equal, revision));
        }
    }
}

fn to_operation(change: Change) -> TxnOp {
    match change {
        Change::Delete { key } => TxnOp::delete(key, None),
        Change::Put { key, value, lease } => {
            let bound = lease.map(|lease| PutOptions::new().with_lease(etcd_number(lease.0)));
            TxnOp::put(key, value, bound)
        }
    }
}

impl Coordinator for Etcd {
    fn read<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<Snapshot>> {
        Box::pin(async move {
            let options = match prefix.is_empty() {
                true => GetOptions::new().with_all_keys(),
                false => GetOptions::new().with_prefix(),
            };
            let mut kv = self.kv();
            let mut answer = self.reach.ask(kv.get(prefix, Some(options))).await?;
            let revision = answer.header().map_or(0, |header| header.revision());
            let mut entries = Vec::new();
            for kv in answer.take_kvs() {
                let (revision, lease) = (number(kv.mod_revision()), number(kv.lease()));
                let (key, value) = kv.into_key_value();
                // Somebody else's, who keeps bytes under them.
                let Ok(key) = String::from_utf8(key) else {
                    continue;
                };
                entries.push(Entry {
                    key,
                    value: value.into(),
                    revision,
                    lease: (lease != 0).then_some(LeaseId(lease)),
                });
            }
            Ok(Snapshot {
                entries,
                revision: number(revision),
            })
        })
    }

    fn transact(
        &self,
        compares: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Boxed<'_, Result<Transacted>> {
        Box::pin(async move {
            check_request(&compares, &changes)?;
            let bound = changes.iter().find_map(|change| match change {
                Change::Put { lease, .. } => *lease,
                Change::Delete { .. } => None,
            });
            let mut when = Vec::with_capacity(2 * compares.len());
            for compare in compares {
                to_compare(compare, &mut when);
            }
            let then: Vec<_> = changes.into_iter().map(to_operation).collect();
            let mut kv = self.kv();
            let call = kv.txn(Txn::new().when(when).and_then(then));
            match self.reach.within(call).await? {
                Ok(answer) if answer.succeeded() => {
                    let revision = answer.header().map_or(0, |header| header.revision());
                    let revision = number(revision);
                    Ok(Transacted::Committed { revision })
                }
                Ok(_) => Ok(Transacted::Refused),
                Err(error) if is_lease_over(&error) => Err(Error::LeaseEnded {
                    lease: bound.map_or(0, |lease| lease.0),
                }),
                Err(error) => Err(self.reach.failed(error)),
            }
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Boxed<'a, Result<Watch>> {
        let watcher = Watcher {
            client: self
                .client
                .watch_client()
                .max_decoding_message_size(MAX_ANSWER),
            reach: self.reach.clone(),
            prefix: prefix.to_owned(),
            after,
            stream: None,
            ready: VecDeque::new(),
        };
        Box::pin(async { Ok(Watch::new(watcher)) })
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<Lease>> {
        Box::pin(async move {
            let seconds = check_ttl(ttl)?.div_ceil(1000);
            let mut client = self.client.lease_client();
            let call = client.grant(etcd_number(seconds), None);
            let answer = self.reach.ask(call).await?;
            if answer.id() == 0 || answer.ttl() < etcd_number(seconds) {
                return Err(self.reach.failed(format!("a lease of {}", answer.ttl())));
            }
            Ok(Lease {
                id: LeaseId(number(answer.id())),
                ttl: Duration::from_secs(number(answer.ttl())),
            })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<Duration>> {
        Box::pin(async move {
            // Opening the stream is a beat; its answer says only that the lease is there. A second one gives the ttl.
            let beat = async {
                let mut client = self.client.lease_client();
                let (mut keeper, mut stream) = client.keep_alive(etcd_number(lease.0)).await?;
                keeper.keep_alive().await?;
                Ok(stream.message().await?.map_or(0, |answer| answer.ttl()))
            };
            match self.reach.within(beat).await? {
                Ok(ttl) if ttl > 0 => Ok(Duration::from_secs(number(ttl))),
                Ok(_) => Err(Error::LeaseEnded { lease: lease.0 }),
                Err(error) if is_lease_over(&error) => Err(Error::LeaseEnded { lease: lease.0 }),
                Err(error) => Err(self.reach.failed(error)),
            }
        })
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<()>> {
        Box::pin(async move {
            let mut client = self.client.lease_client();
            match self
                .reach
                .within(client.revoke(etcd_number(lease.0)))
                .await?
            {
                Ok(_) => Ok(()),
                Err(error) if is_lease_over(&error) => Ok(()),
                Err(error) => Err(self.reach.failed(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
