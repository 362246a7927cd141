"""What all servers offer.

* `catalog`: the merged view of all tools
* `names`: catalog names, valid for every model API
"""
