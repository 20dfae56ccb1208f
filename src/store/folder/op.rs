//! What has changed in a folder, an operation a file.

use bytes::Bytes;

use super::path::RelativePath;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A file that is new, or is written anew. Folders that lead there are made.
    Put {
        /// Where it is.
        path: RelativePath,
        /// All that is in it.
        data: Bytes,
    },
    /// A file that has grown.
    Append {
        /// Where it is.
        path: RelativePath,
        /// How long it was.
        from: u64,
        /// What came after that.
        data: Bytes,
    },
    /// A folder, perhaps an empty one.
    Folder {
        /// Where it is.
        path: RelativePath,
    },
    /// A file that is gone, or a folder that is gone, after all that was in it.
    Remove {
        /// Where it was.
        path: RelativePath,
    },
}
