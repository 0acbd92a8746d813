//! The Tidewatch worker: how the pure dataflows meet the world.
pub mod metrics;
