//! What the engine calls projects, exports and parts while it runs. A key is never given out twice:
//! an event may name something that is gone by the time it comes.

use slotmap::new_key_type;

use crate::domain::part::PartKey;

new_key_type! {
    pub(crate) struct ProjectId;
    /// One export of one project.
    pub(crate) struct EntryId;
}

/// One part of one export.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartId {
    pub(crate) entry: EntryId,
    pub(crate) key: PartKey,
}
