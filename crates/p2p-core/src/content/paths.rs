//! Which names and relative paths may come from strangers.
//!
//! A path that passes is safe to create below a directory on Linux, macOS and Windows alike: it stays below it, names
//! a plain file, looks like what it is, and (with [`collision_key`]) never lands on another one. Paths are refused,
//! never repaired: a repaired name is one that nobody signed.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use unicode_normalization::UnicodeNormalization;

/// Longest component in bytes: what ext4, APFS and NTFS take.
const MAX_COMPONENT: usize = 255;
/// Longest path in bytes (`PATH_MAX` of Linux).
const MAX_PATH: usize = 4096;
/// Deepest path, in components.
const MAX_DEPTH: usize = 64;

/// Names that Windows gives to devices in every directory, with or without an extension.
const DEVICES: [&str; 7] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"];

/// Why a name or path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No characters, or a path with an empty component (which includes an absolute path).
    #[error("an empty name")]
    Empty,
    /// `.` or `..`.
    #[error("a relative name (. or ..)")]
    Relative,
    /// A component longer than 255 bytes.
    #[error("a name longer than 255 bytes")]
    ComponentTooLong,
    /// A path longer than 4,096 bytes.
    #[error("a path longer than 4096 bytes")]
    TooLong,
    /// A path of more than 64 components.
    #[error("a path deeper than 64 components")]
    TooDeep,
    /// A separator, a control character, or one that Windows does not allow (`<>:"|?*`, backslash).
    #[error("a name with the character {0:?}")]
    Character(char),
    /// A character that is not seen or that reorders others, so that the name would look like another.
    #[error("a name with the invisible character {0:?}")]
    Invisible(char),
    /// Nothing but white space and invisible characters.
    #[error("a blank name")]
    Blank,
    /// A final dot or space, which Windows drops.
    #[error("a name that ends in a dot or a space")]
    Trailing,
    /// The name of a Windows device, such as `CON`, `nul.txt` or `COM1`.
    #[error("the name of a Windows device")]
    Device,
    /// `.git` in any case, or its short form: writing below it runs code.
    #[error("the name of a Git directory")]
    Git,
}

/// Checks one component of a path, or the name of a file.
///
/// # Errors
/// The first rule that it breaks; see [`PathError`].
pub fn check_component(name: &str) -> Result<(), PathError> {
    match name {
        "" => return Err(PathError::Empty),
        "." | ".." => return Err(PathError::Relative),
        _ if name.len() > MAX_COMPONENT => return Err(PathError::ComponentTooLong),
        _ => {}
    }
    for c in name.chars() {
        if c.is_control() || matches!(c, '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*') {
            return Err(PathError::Character(c));
        }
        if is_deceptive(c) {
            return Err(PathError::Invisible(c));
        }
    }
    if name.ends_with(['.', ' ']) {
        return Err(PathError::Trailing);
    }
    if name.chars().all(|c| c.is_whitespace() || is_ignorable(c)) {
        return Err(PathError::Blank);
    }
    if is_device(name) {
        return Err(PathError::Device);
    }
    if matches!(collision_key(name).as_ref(), ".git" | "git~1") {
        return Err(PathError::Git);
    }
    Ok(())
}

/// Checks a relative path: components joined by `/`.
///
/// # Errors
/// The first rule that it, or one of its components, breaks; see [`PathError`].
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.len() > MAX_PATH {
        return Err(PathError::TooLong);
    }
    if path.split('/').count() > MAX_DEPTH {
        return Err(PathError::TooDeep);
    }
    path.split('/').try_for_each(check_component)
}

/// What a component is called on a file system that ignores case, normal form and invisible characters: two names of
/// one directory that share a key are one file somewhere.
///
/// Full Unicode case folding between two canonical decompositions (Unicode, definition D145), without what is ignored
/// by default, as APFS, HFS+ and the casefold feature of ext4 compare.
pub(super) fn collision_key(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        return if name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
    }
    let plain: String = name.chars().filter(|c| !is_ignorable(*c)).nfd().collect();
    let folded = CaseMapper::new().fold_string(&plain);
    Cow::Owned(folded.nfd().collect())
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ');
    if DEVICES
        .iter()
        .any(|device| stem.eq_ignore_ascii_case(device))
    {
        return true;
    }
    // Windows takes the superscripts of Latin-1 for digits here.
    let Some((port, number)) = stem.split_at_checked(3) else {
        return false;
    };
    let is_port = port.eq_ignore_ascii_case("COM") || port.eq_ignore_ascii_case("LPT");
    let mut digits = number.chars();
    is_port
        && digits
            .next()
            .is_some_and(|c| c.is_ascii_digit() || matches!(c, '\u{b9}' | '\u{b2}' | '\u{b3}'))
        && digits.next().is_none()
}

/// Characters that reorder, hide or break text: marks and controls of bidirectional text, zero-width ones, line
/// separators, annotation and tag characters, and code points that are no characters.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' | '\u{fdd0}'..='\u{fdef}')
        || u32::from(c) & 0xfffe == 0xfffe
}

/// Characters that file systems may skip when they compare names (Unicode, `Default_Ignorable_Code_Point`).
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
