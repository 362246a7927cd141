"""Configuration files of MCP hosts, read as they are.

* `load`: a file or a mapping, with all of its servers
* `entry`: one server, from its entry to its spec
* `dialects`: where the hosts keep their servers, and what is special about each
* `type_mistakes`: values of a wrong type, and unknown keys
* `model`: the keys of an entry, and their types
* `expansion`: variables in values
* `mistakes`: what is wrong in a file, and where
* `document`: the text of a file, its values, and their places
"""
