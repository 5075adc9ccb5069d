//! `unshare ID|PATH`: offers something no longer; the file stays.

use std::path::{Path, PathBuf};

use p2p_core::ShareRef;

use super::{Outbox, require_absolute, shares};
use crate::config::absolute;
use crate::context::Context;
use crate::control::protocol::{Reply, Request, Target};
use crate::exit::Failure;

pub fn request(what: &str) -> Result<Request, Failure> {
    let what = match what.parse::<Target>() {
        Ok(target) => target.id().to_string(),
        Err(_) => utf8(&as_listed(Path::new(what))?)?,
    };
    Ok(Request::Unshare { what })
}

/// The path without symbolic links, as shares are listed; also when the file itself is gone.
fn as_listed(path: &Path) -> Result<PathBuf, Failure> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let path = absolute(path)?;
    match (
        path.parent().and_then(|folder| folder.canonicalize().ok()),
        path.file_name(),
    ) {
        (Some(folder), Some(name)) => Ok(folder.join(name)),
        _ => Ok(path),
    }
}

fn utf8(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().ok_or_else(|| {
        Failure::usage(format!("{} is not valid UTF-8; use the id", path.display()))
    })?;
    Ok(text.to_owned())
}

pub async fn execute(context: &Context, what: &str, out: &Outbox) -> Result<(), Failure> {
    let what = match what.parse::<Target>() {
        Ok(target) => ShareRef::Id(target.id()),
        Err(_) => {
            require_absolute(Path::new(what))?;
            ShareRef::Path(what.into())
        }
    };
    for share in context.node.unshare(what).await? {
        out.send(Reply::Unshared(shares::describe(&share))).await?;
    }
    Ok(())
}
