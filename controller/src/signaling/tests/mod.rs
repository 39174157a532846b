//! Scripted conversations: JSON in, JSON out, against a model of a media node that refuses what a real one would refuse.

mod cluster;
mod errors;
mod harness;
mod join;
mod media;
mod moderation;
mod nodes;
mod random;
mod reconnect;
mod signals;
mod sim_cluster;
