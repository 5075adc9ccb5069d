//! Manifests: who says that some content is called so. Signed claims on one side of a gate, trusted ones on the other.
//!
//! States: a [`SignedManifest`] is what strangers send; its claims are read for display and routing only. A
//! [`TrustedManifest`] has passed [`SignedManifest::verify`], the only place that makes one.
//!
//! The signature covers `b"p2p-core manifest v1\0"` and the canonical bytes of the [`Manifest`].

use std::{collections::BTreeSet, fmt, ops::Deref};

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError as Malformed, EncodeError},
};

use super::{
    Attributes, ContentId, DecodeError, MAX_SIZE, PathError, PublisherKey, PublisherSecret,
    check_component, collection,
    encoding::{self, read_string, refuse},
    publisher::BadSignature,
};

/// What every signed manifest begins with, so that no signature made for another purpose is one over a manifest.
const DOMAIN: &[u8] = b"p2p-core manifest v1\0";

/// The version of manifests without attributes, which nearly all are.
const VERSION: u8 = 1;
/// That of those with.
const VERSION_KEPT: u8 = 2;

/// Longest encoding of a signed manifest in bytes. The longest possible one has about 400.
const MAX_ENCODED: usize = 1024;

/// Longest name in bytes.
const MAX_NAME: usize = 255;

/// What the content of a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[non_exhaustive]
pub enum Kind {
    /// A file.
    File,
    /// A folder: the content is the listing of a [`Collection`](crate::content::Collection).
    Collection,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Collection => "collection",
        })
    }
}

/// What a publisher says about some content.
///
/// Holding one proves nothing; see [`TrustedManifest`]. Every manifest that was decoded or signed obeys the rules of
/// its fields, though.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of the format: 1, or 2 if there are attributes.
    pub version: u8,
    /// Whether the content is a file or the listing of a folder.
    pub kind: Kind,
    /// The id of the content.
    pub content: ContentId,
    /// Size of the content in bytes, at most [`MAX_SIZE`]. Proven only by the last block.
    pub size: u64,
    /// What the file or folder is called: one path component that passes [`check_component`].
    pub name: String,
    /// When it was signed, in seconds since 1970, by the publisher's clock.
    pub created: u64,
    /// The key that signed it.
    pub publisher: PublisherKey,
    /// What else the publisher keeps of the file. A folder has them in its listing, for each file.
    pub attributes: Option<Attributes>,
}

impl Manifest {
    /// The rules that every manifest obeys, whoever signed it.
    fn check(&self) -> Result<(), ManifestError> {
        if self.version != version_for(self.attributes) {
            return Err(ManifestError::UnsupportedVersion(self.version));
        }
        if self.attributes.is_some() && self.kind != Kind::File {
            return Err(ManifestError::AttributesOfFolder);
        }
        check_component(&self.name)?;
        let largest = match self.kind {
            Kind::File => MAX_SIZE,
            Kind::Collection => collection::MAX_ENCODED as u64,
        };
        // No block would ever contradict a wrong claim about empty content, so it is checked here.
        let size_is_possible = self.size <= largest
            && (self.size == 0) == (self.content == ContentId::EMPTY)
            && (self.size > 0 || self.kind == Kind::File);
        if !size_is_possible {
            return Err(ManifestError::ImpossibleSize(self.size));
        }
        Ok(())
    }

    /// The bytes that are signed.
    fn message(&self) -> Vec<u8> {
        [DOMAIN, &encoding::encode(self)].concat()
    }
}

fn version_for(attributes: Option<Attributes>) -> u8 {
    attributes.map_or(VERSION, |_| VERSION_KEPT)
}

impl Encode for Manifest {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.version.encode(encoder)?;
        self.kind.encode(encoder)?;
        self.content.encode(encoder)?;
        self.size.encode(encoder)?;
        self.name.encode(encoder)?;
        self.created.encode(encoder)?;
        self.publisher.encode(encoder)?;
        // That they are there, the version says.
        self.attributes
            .map_or(Ok(()), |attributes| attributes.encode(encoder))
    }
}

impl<Context> Decode<Context> for Manifest {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        let version = u8::decode(decoder)?;
        if !matches!(version, VERSION | VERSION_KEPT) {
            return Err(refuse(ManifestError::UnsupportedVersion(version)));
        }
        let manifest = Self {
            version,
            kind: Kind::decode(decoder)?,
            content: ContentId::decode(decoder)?,
            size: u64::decode(decoder)?,
            name: read_string(decoder, MAX_NAME)?,
            created: u64::decode(decoder)?,
            publisher: PublisherKey::decode(decoder)?,
            attributes: match version {
                VERSION_KEPT => Some(Attributes::decode(decoder)?),
                _ => None,
            },
        };
        manifest.check().map_err(refuse)?;
        Ok(manifest)
    }
}
bincode::impl_borrow_decode!(Manifest);

/// Why a manifest was not signed, decoded or trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are not the canonical encoding of a signed manifest.
    #[error("not a signed manifest: {0}")]
    Encoding(#[from] DecodeError),
    /// A manifest of a version that this program does not know.
    #[error("manifest version {0} is not known to this program")]
    UnsupportedVersion(u8),
    /// The name could not safely be that of a file.
    #[error("the name is refused: {0}")]
    Name(#[from] PathError),
    /// Attributes of a folder as a whole.
    #[error("a folder has no attributes of its own")]
    AttributesOfFolder,
    /// A size that no content of this kind and id can have.
    #[error("{0} bytes cannot be the size of this content")]
    ImpossibleSize(u64),
    /// The publisher's key is none that can sign anything.
    #[error("{0} is no sound publisher key")]
    BadKey(PublisherKey),
    /// The signature is not the publisher's over this manifest.
    #[error("the manifest is not signed by the publisher it names")]
    BadSignature,
    /// Signed well, but not by a publisher of the trusted list.
    #[error("{0} is not a trusted publisher")]
    UntrustedPublisher(PublisherKey),
}

/// Whose manifests are accepted. Under every policy, one whose signature does not verify is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TrustPolicy {
    /// The hash alone is enough: content may be fetched without any manifest.
    #[default]
    Any,
    /// There must be a manifest, by any publisher.
    Signed,
    /// There must be a manifest by one of these publishers.
    Trusted(BTreeSet<PublisherKey>),
}

/// A manifest and its signature, as they travel. What it claims is not proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SignedManifest {
    manifest: Manifest,
    signature: [u8; 64],
}

impl SignedManifest {
    /// Signs a manifest. `created` is in seconds since 1970.
    ///
    /// # Errors
    /// [`ManifestError::Name`] and [`ManifestError::ImpossibleSize`] for what nobody would accept.
    pub fn sign(
        kind: Kind,
        content: ContentId,
        size: u64,
        name: impl Into<String>,
        created: u64,
        secret: &PublisherSecret,
    ) -> Result<Self, ManifestError> {
        Self::sign_with(kind, content, size, name, created, None, secret)
    }

    /// As [`SignedManifest::sign`], with what else is to be kept of a file.
    ///
    /// # Errors
    /// As there; [`ManifestError::AttributesOfFolder`].
    pub fn sign_with(
        kind: Kind,
        content: ContentId,
        size: u64,
        name: impl Into<String>,
        created: u64,
        attributes: Option<Attributes>,
        secret: &PublisherSecret,
    ) -> Result<Self, ManifestError> {
        let manifest = Manifest {
            version: version_for(attributes),
            kind,
            content,
            size,
            name: name.into(),
            created,
            publisher: secret.public(),
            attributes,
        };
        manifest.check()?;
        let signature = secret.sign(&manifest.message());
        Ok(Self {
            manifest,
            signature,
        })
    }

    /// The canonical bytes, at most 1 KiB.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(self)
    }

    /// Reads the canonical bytes. The signature is not looked at.
    ///
    /// # Errors
    /// [`ManifestError::UnsupportedVersion`], or [`ManifestError::Encoding`] for everything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        // Looked at first: a later version may have other fields, and its user should hear what is wrong.
        match bytes.first() {
            Some(&version) if !matches!(version, VERSION | VERSION_KEPT) => {
                Err(ManifestError::UnsupportedVersion(version))
            }
            _ => Ok(encoding::decode::<Self, MAX_ENCODED>(bytes)?),
        }
    }

    /// What the manifest says. NOT VERIFIED: anybody can have written it.
    #[must_use]
    pub fn claims(&self) -> &Manifest {
        &self.manifest
    }

    /// The signature over the manifest, not verified.
    #[must_use]
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// Checks the manifest, its signature and its publisher.
    ///
    /// # Errors
    /// [`ManifestError::BadKey`] and [`ManifestError::BadSignature`] under every policy,
    /// [`ManifestError::UntrustedPublisher`] if the policy lists publishers and this is none of them.
    pub fn verify(&self, policy: &TrustPolicy) -> Result<TrustedManifest, ManifestError> {
        self.manifest.check()?;
        let publisher = self.manifest.publisher;
        publisher
            .verify(&self.manifest.message(), &self.signature)
            .map_err(|bad| match bad {
                BadSignature::Key => ManifestError::BadKey(publisher),
                BadSignature::Signature => ManifestError::BadSignature,
            })?;
        match policy {
            TrustPolicy::Trusted(publishers) if !publishers.contains(&publisher) => {
                Err(ManifestError::UntrustedPublisher(publisher))
            }
            _ => Ok(TrustedManifest(self.clone())),
        }
    }
}

/// A manifest whose signature was verified and whose publisher the policy accepts. Only [`SignedManifest::verify`]
/// makes one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustedManifest(SignedManifest);

impl TrustedManifest {
    /// The manifest with its signature, to be passed on.
    #[must_use]
    pub fn signed(&self) -> &SignedManifest {
        &self.0
    }

    /// Takes the signed manifest out.
    #[must_use]
    pub fn into_signed(self) -> SignedManifest {
        self.0
    }
}

impl Deref for TrustedManifest {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.0.manifest
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
