//! `bartender node`: a memory node, until it is told to end.

use super::args::NodeArgs;
use super::{Outcome, connect};
use bartender_dist::{Coordinator, Embedded, Folder, Node, NodeOptions, serve_coordinator};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The embedded coordinator's region, in the data folder. No region's file is called so.
const COORDINATOR: &str = "coordinator";

pub(crate) fn run(args: NodeArgs) -> Outcome {
    let runtime = connect::runtime()?;
    let fabric = connect::fabric(&args.reach, Some(&args.name), runtime.handle().clone())?;
    let data = &args.data;
    std::fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
    runtime.block_on(async {
        // From here on, so that none is missed.
        let mut end = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        if let Some(address) = args.metrics {
            let exporter = PrometheusBuilder::new().with_http_listener(address);
            let installed = exporter.install();
            installed.map_err(|error| format!("metrics at {address}: {error}"))?;
        }
        let coordinator: Arc<dyn Coordinator> = match &args.serve_coordinator {
            None => connect::coordinator(&args.reach, &fabric).await?,
            Some(address) => {
                let coordinator = Arc::new(Embedded::open(data.join(COORDINATOR))?);
                let listener = fabric.listen(address).await?;
                tracing::info!(address = listener.address(), "coordinator");
                tokio::spawn(serve_coordinator(coordinator.clone(), listener));
                coordinator
            }
        };
        // It creates no region: copies are as large as what they are copies of.
        let store = Arc::new(Folder::new(data, bartender_pm::Options::new()));
        let options = NodeOptions::new(&args.name, &args.reach.cluster)
            .lease(Duration::from_millis(args.lease))
            .keep_all();
        let node = Node::start(options, &args.listen, fabric, coordinator, store).await?;
        tracing::info!(name = args.name, address = node.address(), "memory node");
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupted.recv() => {}
        }
        tracing::info!(name = args.name, "leaves the cluster");
        node.leave().await;
        Ok(())
    })
}
