"""The processes and devices of a run, as simulated variables of clusters tell of them."""

import os
import sys
import types
from unittest import mock

import jax
import pytest
from jax._src import clusters

from cnn_jax.errors import UserError
from cnn_jax.training import cluster, parallel

JOB = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "node[017-018]",
    "SLURM_STEP_NUM_NODES": "2",
}
EIGHT = "0,1,2,3,4,5,6,7"


def slurm(tasks, per_node, node, local, **more):
    """The variables of one task of a step on two nodes."""
    return {
        **JOB,
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(local),
        "SLURM_PROCID": str(node * (tasks // 2) + local),
        **more,
    }


@pytest.fixture
def joined(monkeypatch):
    """Join with these variables; returns what JAX would connect to, after its own detection."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "CUDA_", "JAX_COORD", "JAX_NUM_P", "JAX_PROC", "TPU_")):
            monkeypatch.delenv(name)

    def join(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with mock.patch.object(jax.distributed, "initialize") as initialize:
            parallel.initialize()
        (given,) = initialize.call_args_list
        assert not given.args
        settings = dict(given.kwargs)
        assert settings.pop("heartbeat_timeout_seconds") <= 30
        assert settings.pop("shutdown_timeout_seconds") <= 30
        found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            variables.get("JAX_COORDINATOR_ADDRESS"),
            settings.pop("num_processes", None),
            settings.pop("process_id", None),
            settings.pop("local_device_ids"),
            None,
            5,
        )
        assert not settings
        return found

    return join


ONE_TASK_A_NODE = slurm(2, "1(x2)", 1, 0, CUDA_VISIBLE_DEVICES=EIGHT, SLURM_GPUS_ON_NODE="8")


def test_one_process_a_node_has_all_its_gpus(joined):
    address, count, index, devices = joined(ONE_TASK_A_NODE)
    assert address.partition(":")[0] == "node017"
    assert (count, index) == (2, 1)
    assert devices == list(range(8))


def test_one_process_a_gpu_has_its_own(joined):
    variables = slurm(16, "8(x2)", 1, 3, CUDA_VISIBLE_DEVICES=EIGHT, SLURM_GPUS_ON_NODE="8")
    assert cluster.local_device_ids(variables) is None  # left to JAX
    _, count, index, devices = joined(variables)
    assert (count, index, devices) == (16, 11, [3])


def test_a_task_that_slurm_has_bound_to_its_gpu_takes_the_only_one_it_sees(joined):
    variables = slurm(16, "8(x2)", 0, 3, CUDA_VISIBLE_DEVICES="3", SLURM_GPUS_ON_NODE="8")
    assert joined(variables)[2:] == (3, [0])


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        ({"CUDA_VISIBLE_DEVICES": EIGHT, "SLURM_GPUS_ON_NODE": "8"}, [4, 5, 6, 7]),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7", "SLURM_GPUS_ON_NODE": "8"}, [0, 1, 2, 3]),
        ({"ROCR_VISIBLE_DEVICES": EIGHT}, [4, 5, 6, 7]),
        ({"SLURM_GPUS_ON_NODE": "4"}, [2, 3]),
        ({"CUDA_VISIBLE_DEVICES": EIGHT, "JAX_LOCAL_DEVICE_IDS": "6,7"}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_two_tasks_a_node_share_its_gpus(more, devices):
    assert cluster.local_device_ids(slurm(4, "2(x2)", 0, 1, **more)) == devices


def test_gpus_that_tasks_cannot_share_are_refused():
    variables = slurm(6, "3(x2)", 0, 1, CUDA_VISIBLE_DEVICES=EIGHT)
    with pytest.raises(UserError, match="3 tasks on a node with 8 GPUs; --ntasks-per-node must be"):
        cluster.local_device_ids(variables)


@pytest.mark.parametrize(
    ("variables", "tasks"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, 2),
        ({"SLURM_TASKS_PER_NODE": "4"}, 4),
        # A step may have fewer tasks than the job allows.
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NTASKS_PER_NODE": "8"}, 1),
        ({"SLURM_NTASKS_PER_NODE": "8"}, 8),
        ({}, 1),
    ],
)
def test_the_tasks_of_a_node_are_counted_in_slurm_s_notations(variables, tasks):
    assert cluster._tasks(variables) == tasks


def test_gpus_that_slurm_does_not_manage_are_those_of_the_driver(monkeypatch):
    monkeypatch.setattr(cluster, "_driver_s_gpus", lambda: 4)
    assert cluster.local_device_ids(slurm(2, "1(x2)", 0, 0)) == [0, 1, 2, 3]


def test_the_plain_variables_name_the_processes(joined):
    variables = {
        "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
    }
    assert joined(variables) == ("10.0.0.1:1234", 4, 3, None)


def test_a_number_of_processes_that_is_none_is_refused(joined):
    with pytest.raises(UserError, match=r"--distributed: .*'two'"):
        joined({"JAX_NUM_PROCESSES": "two"})


def test_a_tpu_pod_is_left_to_jax(joined, monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    for module in (cloud_tpu_cluster, clusters.cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # no metadata server here
    monkeypatch.setattr(
        cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *arguments: None
    )
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    variables = {"TPU_WORKER_HOSTNAMES": "host-a,host-b,host-c", "TPU_WORKER_ID": "2"}
    address, count, index, devices = joined(variables)
    assert address.partition(":")[0] == "host-a"
    assert (count, index, devices) == (3, 2, None)


def test_an_indexed_job_of_kubernetes_is_left_to_jax(joined, monkeypatch):
    def objects(**fields):
        return types.SimpleNamespace(**fields)

    labels = {"job-name": "cnn-jax"}
    pod = objects(
        metadata=objects(
            labels=labels, name="cnn-jax-1", owner_references=[objects(controller=True, kind="Job")]
        ),
        spec=objects(subdomain="cnn-jax"),
    )
    service = objects(
        spec=objects(cluster_ip="None", selector=labels), metadata=objects(name="cnn-jax")
    )
    core = objects(
        list_namespaced_pod=lambda **_: objects(items=[pod]),
        list_namespaced_service=lambda *_: objects(items=[service]),
    )
    job = objects(spec=objects(parallelism=4), metadata=objects(labels={}, name="cnn-jax"))
    batch = objects(read_namespaced_job=lambda **_: job)
    kubernetes = types.ModuleType("kubernetes")
    kubernetes.config = objects(load_incluster_config=lambda: None)
    kubernetes.client = objects(
        CoreV1Api=lambda: core,
        BatchV1Api=lambda: batch,
        exceptions=objects(ApiException=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "kubernetes", kubernetes)
    found = clusters.K8sCluster
    for name, value in (("_namespace", "default"), ("_pod", pod)):
        monkeypatch.setattr(found, name, classmethod(lambda cls, value=value: value))
    monkeypatch.setattr("socket.gethostbyname", lambda name: "10.0.0.2")
    variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    address, count, index, devices = joined(variables)
    assert address.startswith("cnn-jax-0.cnn-jax:")
    assert (count, index, devices) == (4, 1, None)
