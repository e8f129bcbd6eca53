//! Why an archive is not a snapshot that a server could be given.

/// Each variant is one thing that is wrong with the bytes; [`ArchiveError::Read`] alone is about getting them.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive could not be read")]
    Read(#[source] std::io::Error),
    #[error("the archive ends in the middle of {within}: it was cut off")]
    Truncated { within: &'static str },
    #[error("the file is not a gzip archive")]
    NotGzip,
    #[error("the gzip stream is damaged: {0}")]
    Gzip(&'static str),
    #[error("{0} follows after the end of the archive: nothing may be appended to a snapshot")]
    Trailing(&'static str),
    #[error(
        "the archive expands to more than the {limit} bytes allowed (for a Job four times spec.storage.size, and never less \
         than 64 GiB): if the data is truly that large, so must the volumes be"
    )]
    TooLarge { limit: u64 },
    #[error("the tar stream is damaged: {0}")]
    Tar(&'static str),
    #[error("the archive holds an entry \"{0}\" that no snapshot has")]
    UnknownEntry(String),
    #[error("the entry {entry} is not a plain file")]
    NotPlain { entry: &'static str },
    #[error("the entry {0} is there twice: the server would join them")]
    DuplicateEntry(&'static str),
    #[error("the entry {0} is missing")]
    MissingEntry(&'static str),
    #[error("the entry {entry} is {size} bytes long, at most {limit} make sense")]
    EntryTooLarge { entry: &'static str, size: u64, limit: u64 },
    #[error("meta.json is not what a server writes")]
    Meta(#[source] MetaError),
    #[error("SHA256SUMS is not two lines of a digest and a name")]
    Sums,
    #[error("the content of {entry} does not match its line in SHA256SUMS")]
    Digest { entry: &'static str },
    #[error("SHA256SUMS.sealed is not the sealed form of the sums: {0}")]
    Sealed(&'static str),
    #[error("state.bin is damaged at byte {at}: {what}")]
    State { at: u64, what: &'static str },
    #[error("state.bin has no key {0}: a server restored from it would not unseal")]
    MissingCoreKey(&'static str),
    #[error("core/seal-config is not readable")]
    SealConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error("not the JSON of a snapshot's meta data")]
    Json(#[source] serde_json::Error),
    #[error("the field \"{0}\" is there twice")]
    Twice(String),
    #[error("Version {0} is unknown")]
    Version(u64),
    #[error("{field} is {value}, which no cluster reaches")]
    Absurd { field: &'static str, value: u64 },
    #[error("Size is {said}, but state.bin has {found} bytes")]
    Size { said: u64, found: u64 },
    #[error("it names no members")]
    NoMembers,
}

impl ArchiveError {
    /// A constant for conditions, events and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read(_) => "ArchiveUnreadable",
            Self::Truncated { .. } => "ArchiveTruncated",
            Self::NotGzip => "ArchiveNotGzip",
            Self::Gzip(_) => "ArchiveGzipDamaged",
            Self::Trailing(_) => "ArchiveTrailingData",
            Self::TooLarge { .. } => "ArchiveTooLarge",
            Self::Tar(_) => "ArchiveTarDamaged",
            Self::UnknownEntry(_) => "ArchiveUnknownEntry",
            Self::NotPlain { .. } => "ArchiveEntryNotPlain",
            Self::DuplicateEntry(_) => "ArchiveDuplicateEntry",
            Self::MissingEntry(_) => "ArchiveMissingEntry",
            Self::EntryTooLarge { .. } => "ArchiveEntryTooLarge",
            Self::Meta(_) => "ArchiveMetaInvalid",
            Self::Sums => "ArchiveSumsInvalid",
            Self::Digest { .. } => "ArchiveDigestMismatch",
            Self::Sealed(_) => "ArchiveSealedSumsInvalid",
            Self::State { .. } => "ArchiveStateDamaged",
            Self::MissingCoreKey(_) => "ArchiveCoreKeyMissing",
            Self::SealConfig => "ArchiveSealConfigInvalid",
        }
    }

    /// Whether the bytes just stopped: what a server leaves behind when it goes away in the middle of a stream that it
    /// had begun with 200.
    pub const fn is_cut_off(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }
}
