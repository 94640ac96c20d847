//! `bartender cluster`: how a cluster is, and changes of its records.

use super::args::{ClusterArgs, ClusterCommand};
use super::{Outcome, connect, table};
use bartender_dist::{
    ClusterMap, ClusterStatus, Refusal, RegionRecord, RegionReport, Role, Seen, Verdict,
    cluster_status,
};
use std::io::{self, Write};
use std::time::Duration;

/// How long a member may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn run(args: ClusterArgs) -> Outcome {
    let runtime = connect::runtime()?;
    let fabric = connect::fabric(&args.reach, args.name.as_deref(), runtime.handle().clone())?;
    runtime.block_on(async {
        let coordinator = connect::coordinator(&args.reach, &fabric).await?;
        let map = ClusterMap::new(coordinator, &args.reach.cluster)?;
        match args.command {
            ClusterCommand::Status { json } => {
                let status = cluster_status(&map, &fabric, PATIENCE).await?;
                if json {
                    let text = serde_json::to_string_pretty(&status)?;
                    return Ok(writeln!(io::stdout(), "{text}")?);
                }
                print(&status)
            }
            ClusterCommand::Replicas {
                region,
                add,
                remove,
            } => replicas(&map, &region, &add, &remove).await,
            ClusterCommand::Policy { region, policy } => loop {
                let seen = record(&map, &region).await?;
                let changed = map.set_policy(&region, &seen, policy.into()).await?;
                if let Some(record) = done(&region, changed)? {
                    return said(&record);
                }
            },
        }
    })
}

async fn record(map: &ClusterMap, region: &str) -> Outcome<Seen<RegionRecord>> {
    let seen = map.region(region).await?;
    seen.ok_or_else(|| {
        format!("the cluster has no region {region}; `bartender cluster status` lists them").into()
    })
}

/// What came of a change; none if it has to be tried again.
fn done(region: &str, verdict: Verdict) -> Outcome<Option<RegionRecord>> {
    match verdict {
        Verdict::Done(seen) => Ok(Some(seen.record)),
        Verdict::Refused(Refusal::Changed(_) | Refusal::Passing) => Ok(None),
        Verdict::Refused(why) => Err(format!("region {region}: refused: {why:?}").into()),
    }
}

fn said(record: &RegionRecord) -> Outcome {
    let text = serde_json::to_string(record)?;
    Ok(writeln!(io::stdout(), "{text}")?)
}

async fn replicas(map: &ClusterMap, region: &str, add: &[String], remove: &[String]) -> Outcome {
    loop {
        let seen = record(map, region).await?;
        let now = &seen.record;
        if let Some(name) = remove.iter().find(|name| !now.replicas.contains(name)) {
            let replicas = now.replicas.join(", ");
            return Err(
                format!("region {region}: {name} is no replica; these are: {replicas}").into(),
            );
        }
        if remove.contains(&now.primary) {
            let name = &now.primary;
            return Err(format!(
                "region {region}: {name} is its primary; once another member has taken over it can be removed"
            )
            .into());
        }
        if let Some(name) = remove.iter().find(|name| now.in_sync.contains(name))
            && map.primary(region).await?.is_none()
        {
            return Err(format!(
                "region {region}: it has no primary now, and {name} may be the next; remove it when the region is served"
            )
            .into());
        }
        let mut replicas = now.replicas.clone();
        replicas.retain(|name| !remove.contains(name));
        for name in add {
            if !replicas.contains(name) {
                replicas.push(name.clone());
            }
        }
        let changed = map.set_replicas(region, &seen, replicas).await?;
        if let Some(record) = done(region, changed)? {
            return said(&record);
        }
    }
}

fn print(status: &ClusterStatus) -> Outcome {
    let heading = [
        "REGION",
        "PRIMARY",
        "EPOCH",
        "REPLICA",
        "STATE",
        "LAG BYTES",
        "LAG SECONDS",
        "LAST FAILOVER",
    ];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for region in &status.regions {
        for replica in &region.record.replicas {
            rows.push(row(status, region, replica));
        }
    }
    let mut members = vec![["MEMBER", "ADDRESS", "STATE"].map(String::from).to_vec()];
    for member in &status.members {
        let state = match &member.silent {
            None => "up",
            Some(_) => "silent",
        };
        members.push(vec![
            member.name.clone(),
            member.address.clone(),
            state.to_owned(),
        ]);
    }
    let mut out = io::stdout().lock();
    for line in table::lines(&rows) {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    for line in table::lines(&members) {
        writeln!(out, "{line}")?;
    }
    for member in &status.members {
        if let Some(why) = &member.silent {
            eprintln!(
                "bartender: member {} at {} does not answer: {why}",
                member.name, member.address
            );
        }
    }
    Ok(())
}

fn row(status: &ClusterStatus, region: &RegionReport, replica: &str) -> Vec<String> {
    let record = &region.record;
    let none = || "-".to_owned();
    let reigns = region.reigning.as_deref() == Some(replica);
    let member = status.members.iter().find(|m| m.name == replica);
    let backup = status.backup(region, replica);
    let state = match (reigns, member) {
        (true, _) => match status.of(replica, &region.region).map(|r| r.role) {
            Some(Role::Keeper) => "keeper",
            _ => "primary",
        },
        (false, None) => "down",
        (false, Some(_)) if record.in_sync.iter().any(|name| name == replica) => "in sync",
        (false, Some(_)) if backup.is_some_and(|b| b.live) => "catching up",
        (false, Some(_)) => "not in sync",
    };
    vec![
        region.region.clone(),
        region.reigning.clone().unwrap_or_else(none),
        record.epoch.to_string(),
        replica.to_owned(),
        state.to_owned(),
        backup.map_or_else(none, |b| b.lag_bytes.to_string()),
        backup.map_or_else(none, |b| format!("{:.1}", b.lag_seconds)),
        record.last_failover.map_or_else(none, table::utc),
    ]
}
