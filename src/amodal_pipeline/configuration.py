"""Merging of the folders of conf/ into one configuration, and the file that sets each value."""

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from click import ClickException
from kedro.config import OmegaConfigLoader
from kedro.utils import find_kedro_project
from omegaconf import DictConfig, OmegaConf

from amodal_pipeline.shipped import CONF

DEFAULT = "the method's default"


class LayeredConfigLoader(OmegaConfigLoader):
    """Merges base, the folder that an environment extends, and the environment, in this order.

    An environment names the folder that it extends in its globals.yml
    (``extends: profiles/small``); this folder may extend another. ``kedro run`` without ``--env``
    uses the default environment, and the user's values in conf/local override it. A folder that
    conf/ lacks is read from the package: an environment of your own needs no copy of base.
    """

    local = "local"

    def layers(self) -> list[str]:
        """Return the folders of conf/ that are merged; later ones win.

        Raises:
            ValueError: an environment extends itself.
        """
        env = self.env if self.env != self.local else None
        own = [] if env or not self._fs.isdir(self._get_conf_env_path(self.local)) else [self.local]
        found: list[str] = []
        layer = env or self.default_run_env
        while layer and layer != self.base_env:
            if layer in found:
                raise ValueError(f"conf/{layer}/globals.yml extends itself: {' > '.join(found)}")
            found.append(layer)
            files = self._read_dir_configs(
                self._get_conf_env_path(layer), ["globals.yml"], "globals", set()
            )
            layer = next((config.get("extends") for config in files.values()), None)
        return [self.base_env, *reversed(found), *own]

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return a part of the configuration; parameters with the defaults of registered methods,
        in runs, in Kedro-Viz and in notebooks."""
        from amodal_pipeline.pipelines import parameters

        found = super().__getitem__(key)
        if key == "parameters" and key not in self.data and "folders" in found:
            return parameters.with_defaults(found)
        return found

    def _get_conf_env_path(self, env: str) -> str:
        own = super()._get_conf_env_path(env)
        if env == self.local or self._fs.isdir(own) or not (CONF / env).is_dir():
            return own
        return str(CONF / env)

    def _read_raw_config(self, key: str) -> tuple[dict[Path, DictConfig], dict, str, str, set]:
        """Return the files of all layers in the order of merging, as if from one folder.

        Kedro merges them and then resolves references.
        """
        merged: dict[Path, DictConfig] = {}
        read: set[Path] = set()
        paths = [self._get_conf_env_path(layer) for layer in self.layers()]
        for path in paths:
            files = self._read_dir_configs(
                path, self.config_patterns[key], key, read, key == "credentials"
            )
            if self.merge_strategy.get(key) != "soft":  # an entry replaces an earlier one
                for name in {name for config in files.values() for name in config}:
                    for below in merged.values():
                        below.pop(name, None)
            merged |= files
        return merged, {}, paths[0], paths[-1], read


def main(**options: Any) -> None:
    """Print the values of a parameter, and the file that sets each.

    Args:
        options: of :class:`LayeredConfigLoader`.
    """
    parser = ArgumentParser(
        prog="python -m amodal_pipeline.settings",
        description="Print values of the configuration, and the file that sets each.",
    )
    parser.add_argument("name", help="of a parameter, as --params takes it: orcnn.training")
    parser.add_argument("--env", help="a folder of conf/; the embedded scenes by default")
    given = parser.parse_args()
    conf = (find_kedro_project(Path.cwd()) or Path.cwd()) / "conf"
    try:
        lines = explain(LayeredConfigLoader(str(conf), given.env, **options), given.name)
    except ClickException as error:
        parser.error(error.message)
    print("\n".join(lines))


def explain(loader: LayeredConfigLoader, name: str) -> list[str]:
    """Return a line per value of a parameter: its name, the value, and the file that sets it.

    Raises:
        ParameterError: a value is invalid, or no parameter has this name; gives the nearest name.
    """
    from amodal_pipeline.pipelines import parameters

    checked = parameters.check(loader["parameters"]).model_dump(mode="json", by_alias=True)
    values = {".".join(names): (names, value) for names, value in _leaves(checked)}
    wanted = [path for path in values if f"{path}.".startswith(f"{name}.")]
    if not wanted:
        above = {
            path.rsplit(".", depth)[0] for path in values for depth in range(path.count(".") + 1)
        }
        near = get_close_matches(name, above, n=1, cutoff=0.0)
        raise parameters.ParameterError(f"no parameter is called {name}; the nearest is {near[0]}")
    files = {key: _trees(loader, key) for key in ("parameters", "globals")}
    return [
        f"{path}: {json.dumps(value)}  ({_source('parameters', names, files) or DEFAULT})"
        for path in wanted
        for names, value in [values[path]]
    ]


def _trees(loader: LayeredConfigLoader, key: str) -> dict[str, Any]:
    """Return the content of each file by its path, the last one merged first.

    Paths begin with conf/; those of files that the package ships are whole.
    """
    files = loader._read_raw_config(key)[0]
    root = Path(loader.conf_source).parent
    return {
        str(path.relative_to(root) if path.is_relative_to(root) else path): OmegaConf.to_container(
            config, resolve=False
        )
        for path, config in reversed(files.items())
    }


def _source(key: str, names: list[str], files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the file that sets a value, following references; None if no file does."""
    for file, tree in files[key].items():
        value: Any = tree
        for depth, name in enumerate(names):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
            if isinstance(value, str) and (there := re.search(r"\$\{(globals:)?([\w.]+)\}", value)):
                target = "globals" if there[1] else "parameters"
                return _source(target, there[2].split(".") + names[depth + 1 :], files)
        else:
            return file
    return None


def _leaves(
    tree: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, name))
        else:
            yield [*above, name], value
