//! What the commands that look after the store say to people.

use super::escape::escape;
use super::human::label;
use crate::control::care::{
    AmountReply, CollectedReply, DamagedReply, PinReply, ReloadedReply, StatReply, VerifiedReply,
};
use crate::control::protocol::StorageReply;
use crate::units::human_size;

pub fn pin_text(pin: &PinReply) -> String {
    let name = match (&pin.name, &pin.kind) {
        (Some(name), kind) => label(name, kind),
        (None, _) => "(no name)".to_owned(),
    };
    let (id, size) = (escape(&pin.id), human_size(pin.size));
    format!("{id}  {size:>7}  {:<8}  {name}", escape(&pin.state))
}

pub fn storage_text(storage: &StorageReply) -> String {
    let over = if storage.over_quota {
        "; over the quota: nothing new is fetched"
    } else {
        ""
    };
    format!(
        "{} of {}: {} downloads, {} partial, {} objects, {} index, {} reserved{over}",
        human_size(storage.used),
        human_size(storage.quota),
        human_size(storage.downloads),
        human_size(storage.partial),
        human_size(storage.objects),
        human_size(storage.index),
        human_size(storage.reserved),
    )
}

fn amount(amount: &AmountReply) -> String {
    format!("{:>9}  {:>7}", amount.count, human_size(amount.bytes))
}

pub fn stat_text(stat: &StatReply) -> String {
    let kinds = [
        ("downloads", &stat.downloads),
        ("partial", &stat.partial),
        ("objects", &stat.objects),
        ("in place", &stat.in_place),
        ("pinned", &stat.pinned),
        ("unusable", &stat.unusable),
        ("damaged", &stat.damaged),
    ];
    let mut lines: Vec<String> = kinds
        .iter()
        .map(|(name, count)| format!("{name:<10} {}", amount(count)))
        .collect();
    lines.push(format!("counts     {}", storage_text(&stat.storage)));
    lines.push(format!(
        "disk       {} free, {} to stay free",
        human_size(stat.free),
        human_size(stat.storage.min_free)
    ));
    lines.join("\n")
}

pub fn collected_text(collected: &CollectedReply) -> String {
    let parts = [
        ("left over", &collected.leftovers),
        ("unreferenced", &collected.objects),
        ("evicted", &collected.evicted),
        ("gone", &collected.gone),
    ];
    let mut lines = vec![format!("freed {}", human_size(collected.freed))];
    lines.extend(
        parts
            .iter()
            .filter(|(_, count)| count.count > 0)
            .map(|(name, count)| format!("{name:<12} {}", amount(count))),
    );
    if collected.records > 0 {
        lines.push(format!("{:<12} {:>9}", "records", collected.records));
    }
    if collected.index > 0 {
        lines.push(format!(
            "index is smaller by {}",
            human_size(collected.index)
        ));
    }
    lines.join("\n")
}

pub fn damaged_text(damaged: &DamagedReply) -> String {
    let aside = match &damaged.aside {
        Some(path) => format!("  (set aside as {})", escape(path)),
        None => String::new(),
    };
    format!(
        "{:<10}  {}  {}{aside}",
        escape(&damaged.what),
        escape(&damaged.id),
        escape(&damaged.path)
    )
}

pub fn verified_text(verified: &VerifiedReply) -> String {
    format!(
        "{} contents, {} read: {} damaged, {} changed, {} missing",
        verified.contents,
        human_size(verified.bytes),
        verified.damaged,
        verified.changed,
        verified.missing
    )
}

pub fn reloaded_text(reloaded: &ReloadedReply) -> String {
    let list = |keys: &[String]| match keys {
        [] => "nothing".to_owned(),
        keys => keys
            .iter()
            .map(|key| escape(key))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let mut lines = vec![format!(
        "{}: applied {}",
        escape(&reloaded.file),
        list(&reloaded.applied)
    )];
    if !reloaded.restart.is_empty() {
        lines.push(format!("needs a new start: {}", list(&reloaded.restart)));
    }
    if reloaded.evicted.count > 0 {
        let (count, bytes) = (reloaded.evicted.count, human_size(reloaded.evicted.bytes));
        lines.push(format!("evicted {count} downloads, {bytes}"));
    }
    if reloaded.over_quota {
        lines.push("over the quota: nothing new is fetched".to_owned());
    }
    lines.join("\n")
}
