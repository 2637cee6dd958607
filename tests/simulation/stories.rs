//! Seeds that showed a bug, each with its story.
