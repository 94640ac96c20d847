//! A watch of etcd's that outlives its connections.

use super::{Reach, etcd_number, number};
use crate::coordinator::{Changes, Watching};
use crate::error::{Error, Result};
use bartender_net::Boxed;
use bytes::Bytes;
use etcd_client::{EventType, WatchClient, WatchOptions, WatchStream};
use std::collections::VecDeque;
use std::time::Duration;

/// A watch that cannot reach etcd tries again after this.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether trying again is no use: we are not let in, or do not make sense.
fn is_final(error: &etcd_client::Error) -> bool {
    const INVALID_ARGUMENT: i32 = 3;
    const PERMISSION_DENIED: i32 = 7;
    const UNAUTHENTICATED: i32 = 16;
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            [INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED].contains(&(status.code() as i32))
        }
        _ => false,
    }
}

/// A watch: all up to `after` was given, then comes what is `ready`, then the stream.
pub(super) struct Watcher {
    pub(super) client: WatchClient,
    pub(super) reach: Reach,
    pub(super) prefix: String,
    pub(super) after: u64,
    pub(super) stream: Option<WatchStream>,
    pub(super) ready: VecDeque<Changes>,
}

impl Watcher {
    /// One step towards more that is ready; `false`: etcd is away. Safe to cancel.
    async fn step(&mut self) -> Result<bool> {
        let Some(stream) = &mut self.stream else {
            let options = WatchOptions::new().with_start_revision(etcd_number(self.after + 1));
            let options = match self.prefix.is_empty() {
                true => options.with_all_keys(),
                false => options.with_prefix(),
            };
            let call = self.client.watch(&*self.prefix, Some(options));
            return match self.reach.within(call).await {
                Ok(Ok(stream)) => {
                    self.stream = Some(stream);
                    Ok(true)
                }
                Ok(Err(error)) if is_final(&error) => Err(self.reach.failed(error)),
                Ok(Err(_)) | Err(_) => Ok(false),
            };
        };
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Err(error) if is_final(&error) => return Err(self.reach.failed(error)),
            Ok(None) | Err(_) => {
                self.stream = None;
                return Ok(false);
            }
        };
        if answer.compact_revision() > 0 {
            self.stream = None;
            return Err(Error::Compacted {
                asked: self.after,
                oldest: number(answer.compact_revision()).saturating_sub(1),
            });
        }
        if answer.canceled() {
            self.stream = None;
            if answer.cancel_reason().contains("permission denied") {
                return Err(self.reach.failed(answer.cancel_reason()));
            }
            return Ok(false);
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let (revision, Ok(key)) = (number(kv.mod_revision()), kv.key_str()) else {
                continue;
            };
            let value = match event.event_type() {
                EventType::Put => Some(Bytes::copy_from_slice(kv.value())),
                EventType::Delete => None,
            };
            let change = (key.to_owned(), value);
            match self.ready.back_mut() {
                Some(last) if last.revision == revision => last.keys.push(change),
                _ => self.ready.push_back(Changes {
                    revision,
                    keys: vec![change],
                }),
            }
        }
        Ok(true)
    }
}

impl Watching for Watcher {
    fn next(&mut self) -> Boxed<'_, Result<Changes>> {
        Box::pin(async move {
            loop {
                // etcd does not split a revision over several answers.
                if let Some(mut changes) = self.ready.pop_front() {
                    changes.keys.sort();
                    self.after = changes.revision;
                    return Ok(changes);
                }
                if !self.step().await? {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        })
    }
}
