//! Maps that share what did not change: a copy costs nothing, a change a few nodes, and a comparison what differs.

pub use imbl::OrdMap;
pub use imbl::ordmap::DiffItem;

/// The key of a difference between two maps.
#[must_use]
pub fn key<'a, K, V>(item: DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}
