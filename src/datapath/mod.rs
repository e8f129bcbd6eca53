//! The data mover: snapshot archives streamed, verified, stored and fetched in constant memory.
