//! `OpenBaoOperation`: one thing that happened, or is happening, to a cluster.
