//! What the ranks of a generation do together before they step: the newest state goes to all.

use cohort::ids::Generation;
use cohort::run::standing::Activity;

use crate::compute::{Broke, Tools};
use crate::groups::{Failure, GroupKey, Post};
use crate::handle::Handle;
use crate::replica::Replica;

/// One end of a generation's communicator.
pub struct Collective {
    pub handle: Handle,
    pub key: GroupKey,
    pub rank: u32,
    pub world: u32,
    pub next: usize,
}

impl Collective {
    pub async fn meet(&mut self, post: Post) -> Result<Vec<Post>, Failure> {
        if self.world == 1 {
            return Ok(vec![post]);
        }
        let (key, rank, index) = (self.key, self.rank, self.next);
        self.next += 1;
        let before = {
            let mut mine = self.handle.rank();
            mine.ticks += 1;
            std::mem::replace(&mut mine.activity, Activity::Collective)
        };
        self.handle.world().post(key, rank, index, post);
        let met = self
            .handle
            .until(|world| world.outcome(key, rank, index))
            .await;
        let mut mine = self.handle.rank();
        mine.ticks += 1;
        mine.activity = before;
        met
    }
}

/// Brings the ranks to the newest state that one of them holds.
pub async fn share(
    tools: &mut Tools,
    lineage: Generation,
    collective: &mut Collective,
) -> Result<(), Broke> {
    let held = {
        let mut rank = tools.handle.rank();
        rank.replica
            .take_if(|replica| replica.position.lineage != lineage);
        rank.replica.clone()
    };
    let own = held.as_ref().map_or([0, 0], |held| {
        [held.position.generation.0, held.position.revision + 1]
    });
    let table = collective.meet(Post::Numbers(own)).await?;
    let ages = table.iter().map(|post| match post {
        Post::Numbers(age) => *age,
        _ => [0, 0],
    });
    let ages: Vec<[u64; 2]> = ages.collect();
    let newest = ages.iter().copied().max().unwrap_or_default();
    if newest == [0, 0] {
        return Err(Broke::Nobody);
    }
    if ages.iter().any(|each| *each < newest) {
        let root = ages.iter().position(|each| *each == newest);
        let is_root = root == Some(collective.rank as usize);
        if own < newest {
            tools.handle.rank().replica = None;
        }
        let post = match (&held, is_root) {
            (Some(held), true) => Post::State(Box::new(held.clone())),
            _ => Post::Nothing,
        };
        let posts = collective.meet(post).await?;
        let copied = posts.into_iter().find_map(|post| match post {
            Post::State(state) => Some(*state),
            _ => None,
        });
        // Tensor by tensor.
        collective.meet(Post::Nothing).await?;
        if own < newest {
            tools
                .handle
                .world()
                .tally
                .count("states copied from another rank");
            tools.handle.rank().replica = copied;
        }
    }
    compare(tools, collective).await
}

/// Makes sure that all ranks hold the same.
pub async fn compare(tools: &Tools, collective: &mut Collective) -> Result<(), Broke> {
    let digest = tools
        .handle
        .rank()
        .replica
        .as_ref()
        .map_or(0, Replica::digest);
    let table = collective.meet(Post::Numbers([digest, 0])).await?;
    let equal = table
        .iter()
        .all(|post| matches!(post, Post::Numbers([other, _]) if *other == digest));
    if equal {
        return Ok(());
    }
    let generation = collective.key.0;
    let what = format!("(2) the ranks of generation {generation} hold different states");
    tools.handle.world().violated(what);
    Err(Broke::Diverged)
}
