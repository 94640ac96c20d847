//! From the command line to a fabric and a coordinator.

use super::Outcome;
use super::args::Reach;
use bartender_dist::{Coordinator, RemoteCoordinator};
use bartender_net::tls::Identity;
use bartender_net::{Fabric, TcpFabric, TcpOptions};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};

/// The threads of the tool.
pub(crate) fn runtime() -> Outcome<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// The network, as who the identity says.
pub(crate) fn fabric(
    reach: &Reach,
    name: Option<&str>,
    runtime: Handle,
) -> Outcome<Arc<dyn Fabric>> {
    let options = TcpOptions::default();
    let Some(folder) = &reach.identity else {
        return Ok(Arc::new(TcpFabric::insecure(runtime, options)));
    };
    let name = match name {
        Some(name) => name.to_owned(),
        None => only_name(folder)?,
    };
    let file = |what: String| folder.join(what);
    let identity = Identity::load(
        &file(format!("{name}.pem")),
        &file(format!("{name}.key")),
        &file("authority.pem".into()),
    )
    .map_err(|error| format!("{error}; `bartender cert issue {name}` makes a certificate"))?;
    Ok(Arc::new(TcpFabric::secure(runtime, &identity, options)?))
}

/// Whose certificate lies in a folder, if it is one.
fn only_name(folder: &Path) -> Outcome<String> {
    let failed = |error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".key"));
        names.extend(name.filter(|name| *name != "authority").map(str::to_owned));
    }
    match &names[..] {
        [name] => Ok(name.clone()),
        [] => Err(format!("{}: no certificate's key is here", folder.display()).into()),
        _ => {
            names.sort();
            let names = names.join(", ");
            Err(format!("{}: has several ({names}); say --name", folder.display()).into())
        }
    }
}

/// The coordinator that is somewhere else.
pub(crate) async fn coordinator(
    reach: &Reach,
    fabric: &Arc<dyn Fabric>,
) -> Outcome<Arc<dyn Coordinator>> {
    #[cfg(feature = "etcd")]
    if !reach.etcd.is_empty() {
        let options = bartender_dist::EtcdOptions::new(reach.etcd.iter().cloned());
        return Ok(Arc::new(bartender_dist::Etcd::connect(&options).await?));
    }
    let Some(address) = &reach.coordinator else {
        let etcd = if cfg!(feature = "etcd") {
            ", --etcd"
        } else {
            ""
        };
        return Err(format!("no coordinator: say --coordinator{etcd} or, for a node, --serve-coordinator; see --help").into());
    };
    Ok(Arc::new(RemoteCoordinator::new(fabric.clone(), address)))
}
