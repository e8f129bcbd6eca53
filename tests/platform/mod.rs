//! The process around the controllers: leader election, start and stop, the chart, the plugin, what is never told.

mod access;
mod away;
mod bench;
mod chart;
mod demo;
mod dist;
mod docs;
mod guides;
mod install;
mod layers;
mod leader;
mod life;
mod process;
mod rules;
mod takeover;
