//! Where the requests to members run: in tasks of their own, whatever thread asks.

use std::{io, sync::OnceLock};

use tokio::runtime::{Builder, Handle, Runtime};

static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();

/// Where to spawn them.
pub fn handle() -> io::Result<&'static Handle> {
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("store").enable_all();
        builder.build().ok()
    });
    let runtime = runtime.as_ref().map(Runtime::handle);
    runtime.ok_or_else(|| io::Error::other("no threads for requests to stores"))
}

/// Does something there, and waits for it on a thread that may block.
pub fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    pollster::block_on(handle()?.spawn(work)).map_err(io::Error::other)
}
