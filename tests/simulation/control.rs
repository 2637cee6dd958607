//! Ways to break the agent on purpose, which a checker must notice.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing: this is the product.
    Sound,
    /// A rescan does not ask whether a directory was moved in or replaced (rule 3).
    NothingMovedIn,
    /// Now and then a mark does not reach the dispatcher.
    LosesMarks,
    /// A conclusion that failed is taken for one that did not.
    BelievesAll,
    /// A restart forgets what targets waited for.
    ForgetsBacklog,
    /// A restart looks back to its own start only.
    LooksBackTooLittle,
}
