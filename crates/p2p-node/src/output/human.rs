//! Answers in the form people read. Pure: text out, nothing printed.

use std::time::Duration;

use super::care;
use super::escape::escape;
use crate::control::protocol::{
    CacheReply, CheckReply, CompleteReply, ContentReply, FeedReply, FindingReply, FoundReply,
    PeerReply, Ready, Reply, ShareReply, SharedReply, SkippedReply, StatusReply,
};
use crate::units::{human_duration, human_size};

/// The text for one object, without the last line break; `None`: nothing is printed. `quiet` leaves the bare result.
pub fn render(reply: &Reply, quiet: bool) -> Option<String> {
    Some(match reply {
        Reply::Progress(_) | Reply::Hashing { .. } | Reply::Done | Reply::Error(_) => return None,
        Reply::Ready(ready) => ready_text(ready),
        Reply::Shared(shared) if quiet => escape(&shared.id),
        Reply::Shared(shared) => shared_text(shared),
        Reply::Share(share) if quiet => escape(&share.id),
        Reply::Share(share) => share_text(share),
        Reply::Unshared(share) if quiet => escape(&share.id),
        Reply::Unshared(share) => format!(
            "no longer shared: {} ({})",
            escape(&share.name),
            escape(&share.path)
        ),
        Reply::Complete(complete) if quiet => escape(&complete.path),
        Reply::Complete(complete) => complete_text(complete),
        Reply::Content(content) if quiet => escape(&content.id),
        Reply::Content(content) => content_text(content),
        Reply::Listing { .. } if quiet => return None,
        Reply::Listing {
            name,
            kind,
            size,
            files,
            ..
        } => listing_text(name.as_deref(), kind, *size, *files),
        Reply::Found(found) if quiet => escape(&found.id),
        Reply::Found(found) => found_text(found),
        Reply::Check(check) if quiet => return check.available.then(|| escape(&check.id)),
        Reply::Check(check) => check_text(check),
        Reply::Finding(finding) if quiet && matches!(finding.level.as_str(), "ok" | "info") => {
            return None;
        }
        Reply::Finding(finding) => finding_text(finding),
        Reply::Feed(feed) if quiet => escape(feed.id.as_deref()?),
        Reply::Feed(feed) => feed_text(feed),
        Reply::Removed { .. } if quiet => return None,
        Reply::Removed { id, deleted } => removed_text(id, deleted),
        Reply::Provider { peer, .. } if quiet => escape(peer),
        Reply::Provider {
            peer, addresses, ..
        } => with_list(escape(peer), addresses),
        Reply::Peer(peer) if quiet => escape(&peer.peer),
        Reply::Peer(peer) => peer_text(peer),
        Reply::Connected { peer, .. } if quiet => escape(peer),
        Reply::Connected { peer, address } => {
            format!("connected to {} at {}", escape(peer), escape(address))
        }
        Reply::Id { peer, .. } if quiet => escape(peer),
        Reply::Id {
            peer,
            publisher,
            addresses,
        } => id_text(peer, publisher, addresses),
        Reply::Ticket { ticket, .. } => escape(ticket),
        Reply::Status(status) => status_text(status),
        Reply::Pinned { id } | Reply::Unpinned { id } if quiet => escape(id),
        Reply::Pinned { id } => format!("pinned {}", escape(id)),
        Reply::Unpinned { id } => format!("no longer pinned: {}", escape(id)),
        Reply::Pin(pin) if quiet => escape(&pin.id),
        Reply::Pin(pin) => care::pin_text(pin),
        Reply::Collected(_) | Reply::Verified(_) | Reply::Reloaded(_) if quiet => return None,
        Reply::Collected(collected) => care::collected_text(collected),
        Reply::Stat(stat) => care::stat_text(stat),
        Reply::Damaged(damaged) if quiet => escape(&damaged.path),
        Reply::Damaged(damaged) => care::damaged_text(damaged),
        Reply::Verified(verified) => care::verified_text(verified),
        Reply::Reloaded(reloaded) => care::reloaded_text(reloaded),
        Reply::Stopping if quiet => return None,
        Reply::Stopping => "stopping".to_owned(),
        Reply::Initialized { .. } if quiet => return None,
        Reply::Initialized {
            config,
            peer,
            publisher,
            ..
        } => {
            let (config, peer, publisher) = (escape(config), escape(peer), escape(publisher));
            format!(
                "wrote {config}\npeer {peer}\npublisher {publisher}\n\nStart it with:\n  p2p-node --config {config}"
            )
        }
    })
}

fn ready_text(ready: &Ready) -> String {
    let mut lines = vec![format!("peer {}", escape(&ready.peer))];
    lines.extend(
        ready
            .addresses
            .iter()
            .map(|address| format!("address {}", escape(address))),
    );
    lines.push(format!("api {}", escape(&ready.api)));
    lines.join("\n")
}

fn shared_text(shared: &SharedReply) -> String {
    let (id, name, ticket) = (
        escape(&shared.id),
        label(&shared.name, &shared.kind),
        escape(&shared.ticket),
    );
    let size = human_size(shared.size);
    let left_out = |skipped: &SkippedReply| {
        format!(
            "left out {}: {}\n",
            escape(&skipped.path),
            escape(&skipped.why)
        )
    };
    let skipped: String = shared.skipped.iter().map(left_out).collect();
    format!(
        "share {id} {name} ({size})\n{skipped}ticket {ticket}\n\nOn the other side:\n  p2p-node get {ticket}\n"
    )
}

/// A folder ends in a slash, as `ls -F` shows it.
pub(super) fn label(name: &str, kind: &str) -> String {
    let slash = if kind == "collection" { "/" } else { "" };
    format!("{}{slash}", escape(name))
}

fn share_text(share: &ShareReply) -> String {
    let announced = match (share.announced.as_str(), share.announced_ago) {
        ("done", Some(ago)) => {
            format!("announced {} ago", human_duration(Duration::from_secs(ago)))
        }
        ("done", None) => "announced".to_owned(),
        ("due", _) => "to be announced".to_owned(),
        ("failed", _) => "not announced, trying again".to_owned(),
        ("off", _) => "not announced".to_owned(),
        (other, _) => escape(other),
    };
    let unlisted = if share.unlisted { ", unlisted" } else { "" };
    let watched = if share.watched { ", watched" } else { "" };
    let audience = match share.policy.as_str() {
        "public" => String::new(),
        "lan" => ", local network only".to_owned(),
        peers => format!(
            ", for {} peers only",
            peers.split(',').filter(|p| !p.is_empty()).count()
        ),
    };
    let (id, state) = (escape(&share.id), escape(&share.state));
    let (size, name, path) = (
        human_size(share.size),
        label(&share.name, &share.kind),
        escape(&share.path),
    );
    format!(
        "{id}  {size:>7}  {state:<7}  {name}  ({announced}{unlisted}{audience}{watched}; {path})"
    )
}

fn complete_text(complete: &CompleteReply) -> String {
    let rate = complete.size as f64 / complete.seconds.max(0.001);
    let sources = match complete.sources.len() {
        0 => String::new(),
        1 => ", 1 source".to_owned(),
        many => format!(", {many} sources"),
    };
    let time = human_duration(Duration::try_from_secs_f64(complete.seconds).unwrap_or_default());
    let (path, size, rate) = (
        escape(&complete.path),
        human_size(complete.size),
        human_size(rate as u64),
    );
    format!("{path} ({size} in {time}, {rate}/s{sources})")
}

fn content_text(content: &ContentReply) -> String {
    let name = content
        .name
        .as_deref()
        .map_or_else(|| "(no name)".into(), |name| label(name, &content.kind));
    let (id, size) = (escape(&content.id), human_size(content.size));
    let state = match (content.state.as_str(), content.held) {
        ("entry" | "offered", _) => return format!("{id}  {size:>7}  {name}"),
        ("partial", Some(held)) => {
            let percent = held
                .saturating_mul(100)
                .checked_div(content.size)
                .unwrap_or(100)
                .min(99);
            format!("{percent}% here")
        }
        (state, _) => escape(state),
    };
    let path = content
        .path
        .as_deref()
        .map(|path| format!("  ({})", escape(path)))
        .unwrap_or_default();
    format!("{id}  {size:>7}  {state:<8}  {name}{path}")
}

fn listing_text(name: Option<&str>, kind: &str, size: u64, files: u64) -> String {
    let name = name.map_or_else(|| "(no name)".to_owned(), |name| label(name, kind));
    let files = if files == 1 {
        "1 file".to_owned()
    } else {
        format!("{files} files")
    };
    format!("{name}: {files}, {}", human_size(size))
}

fn found_text(found: &FoundReply) -> String {
    let (id, peer, publisher) = (
        escape(&found.id),
        escape(&found.peer),
        escape(&found.publisher),
    );
    let (size, name) = (human_size(found.size), label(&found.name, &found.kind));
    let others = match found.providers.saturating_sub(1) {
        0 => String::new(),
        1 => " and 1 other".to_owned(),
        more => format!(" and {more} others"),
    };
    format!("{id}  {size:>7}  {name}  (at {peer}{others}, signed by {publisher})")
}

fn check_text(check: &CheckReply) -> String {
    let answered = check.servers.iter().filter(|s| s.named.is_some()).count();
    let here = check.here.as_deref().unwrap_or("not here");
    let mut lines = vec![
        format!("here       {}", escape(here)),
        format!("servers    {answered} of {} answered", check.servers.len()),
    ];
    if let Some(seconds) = check.expires_in {
        let left = human_duration(Duration::from_secs(seconds));
        lines.push(format!("records    expire in {left} unless renewed"));
    }
    for peer in &check.providers {
        lines.push(format!("provider   {}", escape(peer)));
    }
    for peer in &check.holders {
        lines.push(format!("connected  {} has it", escape(peer)));
    }
    lines.push(format!("reachable  {}", escape(&check.reachable)));
    if check.available {
        // Otherwise it is the error that follows.
        lines.push(escape(&check.verdict));
    }
    lines.join("\n")
}

fn finding_text(finding: &FindingReply) -> String {
    let mark = match finding.level.as_str() {
        "ok" => "ok  ",
        "warn" => "WARN",
        "bad" => "BAD ",
        _ => "    ",
    };
    let (area, message) = (escape(&finding.area), escape(&finding.message));
    let text = format!("{mark}  {area:<9}  {message}");
    match &finding.advice {
        Some(advice) => format!("{text}\n{:17}{}", "", escape(advice)),
        None => text,
    }
}

fn feed_text(feed: &FeedReply) -> String {
    let link = format!("{}/{}", escape(&feed.publisher), escape(&feed.name));
    let value = match (&feed.id, feed.sequence) {
        (Some(id), Some(sequence)) => format!("{}  (sequence {sequence})", escape(id)),
        _ => "nothing known yet".to_owned(),
    };
    let how = match (feed.own, feed.followed) {
        (Some(true), _) => ", published here",
        (_, Some(true)) => ", followed",
        _ => "",
    };
    format!("{link}  {value}{how}")
}

fn removed_text(id: &str, deleted: &[String]) -> String {
    let mut lines = vec![format!("forgotten: {}", escape(id))];
    lines.extend(
        deleted
            .iter()
            .map(|path| format!("deleted {}", escape(path))),
    );
    lines.join("\n")
}

fn peer_text(peer: &PeerReply) -> String {
    let rtt = peer
        .rtt_ms
        .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
    let agent = peer.agent.as_deref().map_or_else(|| "-".to_owned(), escape);
    let found: Vec<String> = peer.found.iter().map(|how| escape(how)).collect();
    let what = peer.event.as_deref().unwrap_or(&peer.state);
    let relayed = if peer.relayed { ", relayed" } else { "" };
    let (up, down) = (human_size(peer.up), human_size(peer.down));
    let head = format!(
        "{}  {:<9}  {rtt:>8}  {agent}  by {}{relayed}  up {up}, down {down}",
        escape(&peer.peer),
        escape(what),
        found.join("+"),
    );
    with_list(head, &peer.addresses)
}

fn id_text(peer: &str, publisher: &str, addresses: &[String]) -> String {
    let mut lines = vec![
        format!("peer {}", escape(peer)),
        format!("publisher {}", escape(publisher)),
    ];
    lines.extend(
        addresses
            .iter()
            .map(|address| format!("address {}", escape(address))),
    );
    lines.join("\n")
}

fn with_list(head: String, below: &[String]) -> String {
    let lines = below.iter().map(|line| format!("  {}", escape(line)));
    std::iter::once(head)
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}

/// How many of the blocks asked for had not to be read.
fn hit_rate(cache: &CacheReply) -> String {
    let asked = cache
        .hits
        .saturating_add(cache.joined)
        .saturating_add(cache.misses);
    match cache.hit_rate {
        Some(rate) => format!("{:.0} % of {asked} blocks found", rate * 100.0),
        None => "not asked yet".to_owned(),
    }
}

fn status_text(status: &StatusReply) -> String {
    let uptime = human_duration(Duration::from_secs(status.uptime_seconds));
    let (cache, storage) = (&status.cache, &status.storage);
    let lines = [
        format!("peer       {}", escape(&status.peer)),
        format!("publisher  {}", escape(&status.publisher)),
        format!(
            "version    {} ({}), up {uptime}",
            escape(&status.version),
            escape(&status.agent)
        ),
        format!(
            "peers      {} connected, {} known",
            status.peers_connected, status.peers_known
        ),
        format!(
            "dht        {}, {} peers",
            escape(&status.dht_mode),
            status.dht_peers
        ),
        format!(
            "shares     {}; ids: {} announced, {} due{}, {} failed",
            status.shares,
            status.announced,
            status.announce_due,
            match status.announce_lag_seconds {
                0 => String::new(),
                lag => format!(" for up to {}", human_duration(Duration::from_secs(lag))),
            },
            status.announce_failed
        ),
        format!(
            "fetches    {} running, {} received",
            status.fetches,
            human_size(status.down_bytes)
        ),
        format!(
            "uploads    {} running, {} sent",
            status.uploads,
            human_size(status.up_bytes)
        ),
        format!(
            "cache      {} of {}, {}, {} evicted",
            human_size(cache.bytes),
            human_size(cache.capacity),
            hit_rate(cache),
            cache.evictions
        ),
        format!("storage    {}", care::storage_text(storage)),
        format!(
            "hashed     {} files, {}",
            status.hashed.files,
            human_size(status.hashed.bytes)
        ),
    ];
    let addresses = status
        .addresses
        .iter()
        .map(|address| format!("address    {}", escape(address)));
    lines
        .into_iter()
        .chain(addresses)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> SharedReply {
        SharedReply {
            id: "ab".repeat(32),
            path: "/srv/x".into(),
            name: "x\x1b[2J".into(),
            size: 1234,
            kind: "file".into(),
            files: 1,
            ticket: "p2p1xyz".into(),
            skipped: vec![SkippedReply {
                path: "/srv/x/pipe".into(),
                why: "no file".into(),
            }],
        }
    }

    #[test]
    fn a_share_names_the_command_for_the_other_side() {
        let text = render(&Reply::Shared(shared()), false).expect("text");
        assert!(text.contains("p2p-node get p2p1xyz"), "{text}");
        assert!(text.contains("left out /srv/x/pipe: no file"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn quiet_leaves_the_bare_result() {
        assert_eq!(
            render(&Reply::Shared(shared()), true),
            Some("ab".repeat(32))
        );
        let complete = CompleteReply {
            id: "ab".into(),
            path: "/a/b".into(),
            size: 1,
            seconds: 0.0,
            sources: vec![],
        };
        assert_eq!(
            render(&Reply::Complete(complete), true).as_deref(),
            Some("/a/b")
        );
    }

    #[test]
    fn a_partial_content_is_never_shown_as_whole() {
        let content = ContentReply {
            id: "ab".into(),
            name: Some("film".into()),
            size: 1000,
            state: "partial".into(),
            kind: "file".into(),
            held: Some(999),
            path: None,
            download: None,
            publisher: None,
            peer: None,
        };
        assert!(
            render(&Reply::Content(content), false).is_some_and(|text| text.contains("99% here"))
        );
    }
}
