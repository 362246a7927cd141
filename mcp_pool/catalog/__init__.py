"""What all servers offer.

* `catalog`: the merged view
* `names`: legal for every model API
"""
