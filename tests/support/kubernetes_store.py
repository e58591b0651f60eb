"""What a Kubernetes API server keeps: objects, who owns which field, patches, finalizers, and controllers.

Truthful where clients look: resource versions, generations, server-side apply with conflicts, foreground
and background deletion, ReplicaSets that match their Deployment's template, CRDs that make new kinds.
Leaves out validation, admission and quotas.
"""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
FieldPath = tuple[str, ...]
NEVER_READY = "test.sdctl/never-ready"


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the API."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        return f"apis/{self.group_version}" if self.group else f"api/{self.version}"


BUILT_IN = (
    Kind("", "v1", "namespaces", "Namespace", False),
    Kind("", "v1", "nodes", "Node", False),
    Kind("", "v1", "persistentvolumes", "PersistentVolume", False),
    *(
        Kind("", "v1", f"{kind.lower()}s", kind)
        for kind in ("ConfigMap", "Secret", "Service", "Pod", "ServiceAccount", "Event",
                     "PersistentVolumeClaim")
    ),
    *(Kind("apps", "v1", f"{kind.lower()}s", kind) for kind in ("Deployment", "ReplicaSet", "DaemonSet")),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    *(
        Kind("admissionregistration.k8s.io", "v1", plural, kind, False)
        for plural, kind in (
            ("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
            ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
        )
    ),
    *(
        Kind("rbac.authorization.k8s.io", "v1", f"{kind.lower()}s", kind, "Cluster" not in kind)
        for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    ),
    Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False),
)  # fmt: skip
OPERATORS = (
    Kind("karpenter.sh", "v1", "nodepools", "NodePool", False),
    Kind("karpenter.sh", "v1", "nodeclaims", "NodeClaim", False),
    Kind("karpenter.sh", "v1alpha1", "nodeoverlays", "NodeOverlay", False),
    Kind("karpenter.k8s.aws", "v1", "ec2nodeclasses", "EC2NodeClass", False),
    Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    Kind("keda.sh", "v1alpha1", "triggerauthentications", "TriggerAuthentication"),
)

Key = tuple[Kind, str, str]  # namespace is empty where there is none


class StatusError(Exception):
    """An answer other than success, in Kubernetes' own words."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.document = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details or {}, "code": code,
        }  # fmt: skip


def not_found(kind: Kind, name: str) -> StatusError:
    resource = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return StatusError(404, "NotFound", f'{resource} "{name}" not found', details)


class Store:
    """The objects. `changed` is called with (event type, kind, object) after each change."""

    def __init__(self, changed: Callable[[str, Kind, Object], None], *, has_operators: bool = True) -> None:
        self.kinds = [*BUILT_IN, *(OPERATORS if has_operators else ())]
        self.objects: dict[Key, Object] = {}
        self.resource_version = 100
        self._owners: dict[Key, dict[str, set[FieldPath]]] = {}
        self._changed = changed
        for name in ("default", "kube-system"):
            self.create(self.kind("Namespace"), "", {"metadata": {"name": name}}, manager="test")

    def kind(self, name: str) -> Kind:
        return next(one for one in self.kinds if one.kind == name)

    def has_kind(self, name: str) -> bool:
        return any(one.kind == name for one in self.kinds)

    def get(self, key: Key) -> Object:
        if key not in self.objects:
            raise not_found(key[0], key[2])
        return self.objects[key]

    def select(self, kind: Kind, namespace: str, labels: str = "", fields: str = "") -> list[Object]:
        return [
            found
            for (of, inside, _), found in sorted(self.objects.items(), key=lambda item: item[0][1:])
            if of == kind and (not namespace or inside == namespace) and matches(found, labels, fields)
        ]

    def create(self, kind: Kind, namespace: str, body: Object, *, manager: str, dry: bool = False) -> Object:
        metadata = body.setdefault("metadata", {})
        if not metadata.get("name"):
            metadata["name"] = metadata.pop("generateName") + uuid.uuid4().hex[:5]
        key = (kind, namespace, metadata["name"])
        if key in self.objects:
            raise StatusError(409, "AlreadyExists", f'{kind.plural} "{key[2]}" already exists')
        if kind.is_namespaced and (self.kind("Namespace"), "", namespace) not in self.objects:
            raise not_found(self.kind("Namespace"), namespace)
        return self._put(key, body, manager=manager, dry=dry)

    def replace(self, key: Key, body: Object, *, manager: str, dry: bool = False) -> Object:
        old = self.get(key)
        sent = body.get("metadata", {}).get("resourceVersion")
        if sent not in (None, "", old["metadata"]["resourceVersion"]):
            raise StatusError(409, "Conflict", "the object has been modified")
        return self._put(key, body, manager=manager, dry=dry)

    def patch(self, key: Key, kind_of_patch: str, patch: Any, *, manager: str, dry: bool = False) -> Object:
        old = copy.deepcopy(self.get(key))
        if kind_of_patch == "application/json-patch+json":
            import jsonpatch

            new = jsonpatch.apply_patch(old, patch)
        else:
            new = merge(old, patch, by_name="strategic" in kind_of_patch)
        return self._put(key, new, manager=manager, dry=dry)

    def apply(self, key: Key, body: Object, *, manager: str, force: bool, dry: bool = False) -> Object:
        """Server-side apply: own what is sent, give up what no longer is, refuse what is another's."""
        old = copy.deepcopy(self.objects.get(key))
        if old is None and key[0].is_namespaced and (self.kind("Namespace"), "", key[1]) not in self.objects:
            raise not_found(self.kind("Namespace"), key[1])
        wanted = dict(leaves(body))
        owners = self._owners.get(key, {})
        foreign = {path: name for name, paths in owners.items() if name != manager for path in paths}
        now = dict(leaves(old or {}))
        taken = sorted(p for p, value in wanted.items() if p in foreign and now.get(p) != value)
        if taken and not force:
            text = ", ".join(f'conflict with "{foreign[path]}": .{".".join(path)}' for path in taken)
            raise StatusError(409, "Conflict", f"Apply failed with {len(taken)} conflicts: {text}")
        base = old or {}
        for path in owners.get(manager, set()) - wanted.keys() - foreign.keys():
            drop(base, path)
        done = self._put(key, merge(base, body, by_name=True), manager="", dry=dry)
        if not dry:
            owned = self._owners.setdefault(key, {})
            for name in owned:
                owned[name] -= set(taken)
            owned[manager] = set(wanted)
        return done

    def delete(self, key: Key, policy: str = "Background") -> Object:
        """Delete, or mark as deleted where finalizers hold it."""
        found = self.get(key)
        metadata = found["metadata"]
        if key[0].kind == "CustomResourceDefinition":
            self._clear(found)
        if metadata.get("finalizers"):
            if "deletionTimestamp" not in metadata:
                metadata["deletionTimestamp"] = now_text()
                self._touch(key)
                self._delete_dependents(metadata["uid"])
            return found
        del self.objects[key]
        self._owners.pop(key, None)
        self._changed("DELETED", key[0], found)
        if key[0].kind == "Namespace":
            for inside in [one for one in self.objects if one[1] == key[2]]:
                self.delete(inside)
        if policy != "Orphan":
            self._delete_dependents(metadata["uid"])
        self._free_definition(key[0])
        return found

    def _clear(self, definition: Object) -> None:
        """Delete what a definition defines; the definition waits for what finalizers hold."""
        kinds = [kind for kind in self.kinds if kind.kind == definition["spec"]["names"]["kind"]]
        finalizers = definition["metadata"].setdefault("finalizers", [])
        finalizers[:] = [_CLEANUP] if any(key[0] in kinds for key in self.objects) else []
        for key in [key for key in self.objects if key[0] in kinds]:
            if key in self.objects:
                self.delete(key)
        if not any(key[0] in kinds for key in self.objects):
            finalizers.clear()
            self.kinds = [kind for kind in self.kinds if kind not in kinds]

    def _free_definition(self, kind: Kind) -> None:
        for key, found in list(self.objects.items()):
            if key[0].kind != "CustomResourceDefinition" or "deletionTimestamp" not in found["metadata"]:
                continue
            if found["spec"]["names"]["kind"] == kind.kind and key in self.objects:
                self.delete(key)

    def _delete_dependents(self, uid: str) -> None:
        for key, found in list(self.objects.items()):
            owners = {one.get("uid") for one in found["metadata"].get("ownerReferences", [])}
            if uid in owners and key in self.objects:
                self.delete(key)

    def set_status(self, key: Key, status: Object) -> None:
        """Write a status, as a controller does."""
        self.objects[key]["status"] = status
        self._touch(key)

    def _touch(self, key: Key, event: str = "MODIFIED") -> None:
        self.resource_version += 1
        self.objects[key]["metadata"]["resourceVersion"] = str(self.resource_version)
        self._changed(event, key[0], self.objects[key])

    def _put(self, key: Key, body: Object, *, manager: str, dry: bool) -> Object:
        kind, namespace, name = key
        old = self.objects.get(key)
        new = without_nulls(copy.deepcopy(body))
        new |= {"apiVersion": kind.group_version, "kind": kind.kind}
        metadata = new.setdefault("metadata", {})
        metadata |= {"name": name} | ({"namespace": namespace} if kind.is_namespaced else {})
        before = old["metadata"] if old else {}
        metadata["uid"] = before.get("uid") or str(uuid.uuid4())
        metadata["creationTimestamp"] = before.get("creationTimestamp") or now_text()
        changed = old is None or any(old.get(part) != new.get(part) for part in new if part not in _QUIET)
        metadata["generation"] = before.get("generation", 0) + bool(changed)
        if old and "status" in old:
            new.setdefault("status", old["status"])
        if kind.kind == "Namespace":
            new.setdefault("status", {"phase": "Active"})
        if kind.kind == "Deployment":  # as the server's own defaults do
            new.setdefault("spec", {}).setdefault("replicas", (old or {}).get("spec", {}).get("replicas", 1))
        metadata["resourceVersion"] = before.get("resourceVersion", "")
        if dry or new == old:
            return new
        self._record_owner(key, old or {}, new, manager)
        self.objects[key] = new
        self._touch(key, "MODIFIED" if old else "ADDED")
        if kind.kind == "CustomResourceDefinition":
            self._register(new)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self.delete(key)
        return new

    def _record_owner(self, key: Key, old: Object, new: Object, manager: str) -> None:
        if not manager:
            return
        before = dict(leaves(old))
        mine = {path for path, value in leaves(new) if before.get(path) != value}
        owned = self._owners.setdefault(key, {})
        for name in owned:
            owned[name] -= mine
        owned.setdefault(manager, set()).update(mine)

    def _register(self, definition: Object) -> None:
        spec = definition["spec"]
        for version in spec["versions"]:
            kind = Kind(
                spec["group"], version["name"], spec["names"]["plural"], spec["names"]["kind"],
                spec["scope"] == "Namespaced",
            )  # fmt: skip
            if kind not in self.kinds:
                self.kinds.append(kind)

    def settle(self, key: Key) -> None:
        """Do what the controllers would do for an object by now."""
        found = self.objects.get(key)
        if found is None:
            return
        if key[0].kind == "Deployment" and NEVER_READY not in found["metadata"].get("annotations", {}):
            self._settle_deployment(key, found)
        elif key[0].kind in ("PersistentVolumeClaim", "PersistentVolume"):
            self.set_status(key, {"phase": "Bound"})
        elif key[0].kind == "CustomResourceDefinition":
            names = found["spec"]["names"]
            conditions = [{"type": kind, "status": "True"} for kind in ("Established", "NamesAccepted")]
            self.set_status(key, {"conditions": conditions, "acceptedNames": names, "storedVersions": []})

    def _settle_deployment(self, key: Key, found: Object) -> None:
        spec, metadata = found["spec"], found["metadata"]
        count = spec.get("replicas", 1)
        digest = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        replicas = {"replicas": count, "readyReplicas": count, "availableReplicas": count}
        sets = self.kind("ReplicaSet")
        for of, other in list(self.objects.items()):
            owners = [one["uid"] for one in other["metadata"].get("ownerReferences", [])]
            if of[0] == sets and metadata["uid"] in owners and not of[2].endswith(digest):
                other["spec"]["replicas"] = 0
                self.set_status(of, {"replicas": 0})
        of = (sets, key[1], f"{key[2]}-{digest}")
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": key[2], "uid": metadata["uid"],
                 "controller": True}  # fmt: skip
        body = {
            "metadata": {
                "name": of[2], "labels": spec["template"]["metadata"].get("labels", {}),
                "annotations": {"deployment.kubernetes.io/revision": str(metadata["generation"])},
                "ownerReferences": [owner],
            },
            "spec": {"replicas": count, "selector": spec["selector"], "template": spec["template"]},
        }  # fmt: skip
        self._put(of, body, manager="controller", dry=False)
        generation = self.objects[of]["metadata"]["generation"]
        self.set_status(of, replicas | {"observedGeneration": generation})
        conditions = [
            {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        ]
        self.set_status(
            key,
            replicas
            | {"updatedReplicas": count, "observedGeneration": metadata["generation"]}
            | {"conditions": conditions},
        )


_CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_UNOWNED = frozenset({("apiVersion",), ("kind",), ("status",)})
_OWNED_METADATA = frozenset({"labels", "annotations", "finalizers"})
_QUIET = frozenset({"metadata", "status", "apiVersion", "kind"})


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_named_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and "name" in one for one in value)
    )


def leaves(value: Object, at: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    """Yield each field that server-side apply tracks; a list without names is one field."""
    for name, inner in value.items():
        path = (*at, name)
        if path in _UNOWNED or (path[0] == "metadata" and len(path) > 1 and path[1] not in _OWNED_METADATA):
            continue
        if isinstance(inner, Mapping) and inner:
            yield from leaves(dict(inner), path)
        elif is_named_list(inner):
            for one in inner:
                yield from leaves(one, (*path, f"name={one['name']}"))
        else:
            yield path, inner


def drop(target: Any, path: FieldPath) -> None:
    """Remove one field by its path, where it is there."""
    for step in path[:-1]:
        if step.startswith("name=") and isinstance(target, list):
            target = next((one for one in target if one.get("name") == step[5:]), None)
        else:
            target = target.get(step) if isinstance(target, dict) else None
        if target is None:
            return
    if isinstance(target, dict):
        target.pop(path[-1], None)


def merge(old: Any, patch: Any, *, by_name: bool) -> Any:
    """Merge as JSON merge patch does; with `by_name`, lists of named items item by item."""
    if by_name and is_named_list(patch) and (is_named_list(old) or not old):
        return _merge_items(old or [], patch)
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value, by_name=by_name)
    return merged


def _merge_items(old: list[Object], patch: list[Object]) -> list[Object]:
    items = {one["name"]: one for one in old}
    for one in patch:
        if one.get("$patch") == "delete":
            items.pop(one["name"], None)
        else:
            items[one["name"]] = merge(items.get(one["name"]), one, by_name=True)
    return list(items.values())


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def matches(found: Object, labels: str, fields: str) -> bool:
    """Tell whether an object fits an equality-based label selector and a field selector."""
    for part in filter(None, labels.split(",")):
        name, is_not, value = part.replace("==", "=").replace("!=", "=!").partition("=")
        is_negated = value.startswith("!")
        has = found["metadata"].get("labels", {}).get(name)
        if is_not and (has == value.removeprefix("!")) == is_negated:
            return False
        if not is_not and has is None:
            return False
    for part in filter(None, fields.split(",")):
        name, _, value = part.partition("=")
        target: Any = found
        for step in name.split("."):
            target = target.get(step, {}) if isinstance(target, dict) else {}
        if target != value:
            return False
    return True
