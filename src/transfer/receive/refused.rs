//! The `.meta` of files that hooks refused: each tells its reader why, for a while.

use std::time::Duration;

use tokio::{sync::watch, task, time::sleep};
use tracing::{error, info};

use crate::{
    clock,
    journal::{Journal, JournalError, delivered},
    root::{Root, folder::Folder, folder_rules::FolderRules, meta_file},
    store::{ContentPath, Stores},
};

/// From one pass to the next.
const EVERY: Duration = Duration::from_secs(3600);

/// Removes old ones at once and then every hour, until `shutdown` turns true.
pub async fn run(
    journal: Journal,
    root: Root,
    stores: Stores,
    mut shutdown: watch::Receiver<bool>,
) {
    let passes = async {
        let mut since = 0;
        loop {
            let now = clock::millis();
            let (journal, root, stores) = (journal.clone(), root.clone(), stores.clone());
            let pass = move || forget(&journal, &root, &stores, (since, now));
            match task::spawn_blocking(pass).await {
                Ok(Ok(metas)) => {
                    if metas > 0 {
                        info!(metas, "removed the .meta of files refused long ago");
                    }
                    since = now;
                }
                Err(_) => {}
                Ok(Err(error)) => error!("{error}"),
            }
            sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = passes => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

/// Removes the `.meta` of refused files that their folder no longer keeps at `now`, but still kept
/// at `since`, an earlier pass, both in milliseconds since 1970; returns how many.
pub fn forget(
    journal: &Journal,
    root: &Root,
    stores: &Stores,
    (since, now): (u64, u64),
) -> Result<usize, JournalError> {
    let db = journal.reader()?;
    let mut removed = 0;
    for folder in root.folders().into_iter().flatten().flatten() {
        let Ok(config) = folder.config() else {
            continue;
        };
        let kept = FolderRules::of(&config).keep_refused.as_millis();
        let kept = u64::try_from(kept).unwrap_or(u64::MAX);
        // Over a longer time, if the m2y.config has changed since.
        let times = (since.saturating_sub(kept), now.saturating_sub(kept));
        let place = (folder.user().name().as_str(), folder.name().as_str());
        for refused in delivered::refused_between(&db, place, times)? {
            removed += usize::from(remove(&folder, stores, &refused).is_some());
        }
    }
    Ok(removed)
}

/// Removes the `.meta` of a transfer that was refused, if it is still there.
fn remove(folder: &Folder, stores: &Stores, refused: &delivered::Transfer) -> Option<()> {
    let stem = &refused.stem;
    let meta = meta_file::of_stem(folder.dir(), stem)?;
    let is_its_own = meta.id == Some(refused.key.id) && meta.from == refused.key.from;
    let data = ContentPath::parse(&format!("{stem}.data")).ok()?;
    let is_alone = matches!(stores.of(folder).holds(&data), Ok(false));
    (is_its_own && is_alone && !meta.error.is_empty())
        .then(|| folder.dir().remove_file(format!("{stem}.meta")).ok())?
}
