"""Trials that share a device: who is on which device, and what runs there.

A *place* is a GPU of a node or, without GPUs, a share of a node's cores. The broker, an actor beside the driver, keeps
one *device* per place at most: an actor that trains a pack of trials. A *holder* of a place is the client of a trial,
which Ray Tune starts, or a task that measures outside of trials; the broker tells it which device is its own.

## The life of a device

| state | what it is | what its callers get |
| --- | --- | --- |
| absent | the place has no device | |
| loading | its process loads the model | they wait |
| refused | it cannot load the model, or not reach the results | the RayulError that says why |
| idle | no trial is on it | answers |
| training | trials have slots, and a thread trains all of them, step by step | answers |
| broken | it stopped for an error that is no trial's | DeviceBroken |
| dead | its process is gone | RayActorError |

Everything that happens to a device is a row here, and a test of that name in `tests/sweep/test_device_life.py`:

| row | from | what happens | to | its trials |
| --- | --- | --- | --- | --- |
| created | absent | a holder asks the broker | loading | |
| loaded | loading | the model is there | idle | whoever called meanwhile is answered |
| refused | loading | the model cannot be loaded | refused | fail with the reason |
| shared | any | another holder of the place asks | same | all its holders have one device |
| spread | any | a holder asks, without GPUs | same | it gets the place with the fewest holders |
| joined | idle, training | a trial joins, a slot is free | training | starts, or goes on from its checkpoint |
| queued | training | a trial joins, no slot is free | training | waits until another leaves |
| reported | training | a trial is evaluated | training | trains on, until its next evaluation at most |
| checkpointed | training | a client asks for the next result | training | is on disk up to the last one |
| trial failed | training | an error of one trial | training | it fails, the others train on |
| pack failed | training | an error in a forward that trials share | training | those in the pack fail |
| left | training | a trial ended, or is sent away | training, idle | frees its slot, its calls raise RuntimeError |
| rejoined | training | a trial joins again: its client died | training | joined anew, it has one slot |
| moved | training | a trial gets another device | training, idle | left here, joined there |
| spread out | training | the last trials are few, and elsewhere is room | training | one moves at its next report |
| measured | idle, training | a task measures, between two steps | same | have the rows they would have had |
| split | training | a step runs out of memory | training | go on in packs of half as many slots |
| broken | loading, training | an error that is no trial's | broken | wait to go on where it is replaced |
| hung | training | a step takes longer than a trial may | dead | fail: they took longer, too |
| died | any | its process or its node is lost | dead | wait to go on where it is replaced |
| narrowed | dead | its node had no memory for it | loading | go on in packs of half as many slots |
| lost its broker | any | the process of the broker is lost | absent | wait to go on where the next broker seats them |
| replaced | broken, dead | a holder tells the broker | loading | go on from their checkpoints |
| unused | idle, refused | no holder for IDLE_SECONDS | absent | |
| closed | any | the sweep ends | absent | |
| orphaned | any | the driver is killed | absent | go on from their checkpoints at a resume |

A trial that loses its device is started again by Ray Tune, at most `fit.MAX_FAILURES` times, not counting those when a
node or the broker was lost. Then it fails; but where its device broke each time, and no trial has come any further
meanwhile, the sweep stops. A trial may take `search.trial_time_limit`, and its state is written every
`resources.checkpoint_every`.
"""

from rayul.errors import RayulError


class Moved(RuntimeError):
    """A trial goes on on another device, from its last report: its client asks the broker where."""


class DeviceBroken(RayulError):
    """A device stopped for a reason that is no trial's, and the next one may not."""
