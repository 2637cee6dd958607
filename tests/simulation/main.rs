//! The seeded simulation: one seed drives the production stages against a model of everything around them.
//!
//! Production code: `event::decode`, `tree`, `watch::Shard` with its walks, touches and trunk, the rules and the walk of
//! `rescan`, `change`, `dispatch`, `plan` with its looks and surveys, `worker`'s command lines, lists and judgement, and
//! the records of `checkpoint`. Models: the file system ([`files`]), inotify with a small queue ([`kernel`]), a fanotify mark with one ([`mark`]), both clocks
//! ([`machine`]), the programs that change the tree between any two system calls ([`user`]), rsync ([`rsync`]) and its
//! target ([`target`]). In place of `daemon`'s threads, [`agent`] and [`world`] give each of them its turn.
//!
//! `FANSYNC_SIMULATION_SEED=N` runs one seed, with a trace, once by inotify and once by fanotify. What a seed does changes with the simulation, so a seed that
//! showed a bug becomes a test of the stage at fault, with its story: in `change::set`, `plan`, `watch` and `rescan`.
//!
//! Left out: filters, the delete guard (rsync deletes without `--max-delete`), a clock that is set, a root that is held, and
//! a crash of the machine.

mod agent;
mod checks;
mod control;
mod disk;
mod files;
mod ground;
mod kernel;
mod lane;
mod machine;
mod mark;
mod rsync;
mod seeds;
mod target;
mod user;
mod walkers;
mod world;
