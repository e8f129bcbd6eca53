//! The process around the controllers: leader election, start and stop, the chart, the plugin, what is never told.

mod chart;
mod dist;
mod docs;
mod leader;
mod life;
mod process;
